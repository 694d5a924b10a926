"""A data folder as a portal with one provider leaves it, and what doctor finds there."""

from __future__ import annotations

from pathlib import Path

from lib import doctor
from tests.fakes.stores import new_store


def make_data_folder(folder: Path) -> Path:
    """Everything in it is as it should be."""
    folder.mkdir(mode=0o700)
    (folder / "secrets").mkdir(mode=0o700)
    private(folder / "secrets" / "oidc-aist", "secret")
    private(folder / "secrets" / "notebook-cookies", "x")
    (folder / "keys").mkdir(mode=0o700)
    private(folder / "keys" / "here", "key")
    (folder / "keys" / "here.pub").write_text("public")
    new_store(folder / "portal.sqlite").close()
    return folder


def private(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o600)


def write_settings(data: Path, issuer: str, *lines: str, more: str = "") -> None:
    provider = f'[[provider]]\nid = "aist"\nissuer = "{issuer}"\nclient_id = "portal"\n'
    private(data / "settings.toml", "\n".join([*lines, provider, more]))


def found(data: Path) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(data)}


def bad(data: Path, name: str) -> str:
    """What is said of one fault: what is wrong and what to do."""
    check = found(data)[name]
    assert not check.ok, check.detail
    assert ": " in check.detail
    return check.detail
