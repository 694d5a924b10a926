"""admin.py doctor on one computer: each fault is made, found, and said with what to do."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.config.clusters import ClusterEntry
from lib.config.offerings import Offerings
from lib.config.runtime_dir import runtime_path
from lib.config.settings import Group, Provider, Rule, Settings
from lib.doctor import folders, people
from lib.model import ClusterId
from tests.fakes.installation import bad, found, make_data_folder, private, write_settings
from tests.fakes.lying_provider import LyingProvider, lying_provider


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data_folder(tmp_path / "data")


@pytest.fixture(scope="module")
def liar() -> Iterator[LyingProvider]:
    with lying_provider() as it:
        yield it


# --- one person: no network ---------------------------------------------------------------


def test_for_one_person_nothing_is_looked_up_or_connected(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    names = set(found(data))
    assert {"versions", "packages", "ssh", "permissions", "store", "disk", "groups"} <= names
    assert not any(name.startswith(("DNS", "TLS", "provider", "clock")) for name in names)


# --- folders and files -------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [".", "portal.sqlite", "keys/here", "secrets/oidc-aist", "secrets/notebook-cookies"]
)
def test_what_others_may_read_is_found(data: Path, name: str) -> None:
    assert found(data)["permissions"].ok
    (data / name).chmod(0o750)
    said = bad(data, "permissions")
    assert str(data / name) in said
    assert "chmod go=" in said


def test_settings_that_others_may_write_are_found(data: Path) -> None:
    (data / "settings.toml").write_text("")
    (data / "settings.toml").chmod(0o644)
    assert found(data)["permissions"].ok
    (data / "settings.toml").chmod(0o664)
    assert "chmod go-w" in bad(data, "permissions")


def test_a_secret_file_elsewhere_is_looked_at_too(
    data: Path, tmp_path: Path, liar: LyingProvider
) -> None:
    file = tmp_path / "elsewhere"
    write_settings(data, liar.issuer, more=f'client_secret_file = "{file}"')
    assert "write the client secret" in bad(data, "secret for aist")
    private(file, "\n")
    assert "empty" in bad(data, "secret for aist")
    private(file, "secret")
    assert found(data)["secret for aist"].ok
    file.chmod(0o640)
    assert "make a new secret" in bad(data, "secret for aist")
    assert str(file) in bad(data, "permissions")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_files_of_another_account_are_found(data: Path) -> None:
    os.chown(data / "keys" / "here", 12345, 12345)
    assert "chown them to root" in bad(data, "permissions")


def test_a_runtime_folder_that_others_may_enter_is_found(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    folder = runtime_path(data.resolve())
    assert "is made when" in found(data)["runtime folder"].detail
    folder.mkdir(mode=0o700)
    try:
        assert found(data)["runtime folder"].ok
        folder.chmod(0o755)
        assert "find out who made it" in bad(data, "runtime folder")
        folder.rmdir()
        folder.symlink_to(data)
        assert "remove it" in bad(data, "runtime folder")
        folder.unlink()
        folder.mkdir()
    finally:
        folder.rmdir()


def test_a_program_that_others_may_change_is_found(data: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "lib").mkdir(parents=True)
    for folder in (project, project / "lib"):
        folder.chmod(0o755)
    chosen = Settings(data, tmp_path)
    if os.getuid() == 0:
        assert folders.code(chosen, project).ok
        os.chown(data, 12345, 12345)
        assert folders.account(chosen).ok
        assert folders.code(chosen, project).ok
        os.chown(project / "lib", 12345, 12345)
    said = folders.code(chosen, project)
    assert not said.ok
    assert str(project / "lib") in said.detail
    (project / "lib").chmod(0o775)
    assert not folders.code(chosen, project).ok


@pytest.mark.skipif(os.getuid() != 0, reason="needs a folder of root's")
def test_a_portal_of_root_is_found(data: Path, liar: LyingProvider) -> None:
    write_settings(data, liar.issuer)
    assert "an account of its own" in bad(data, "account")


def test_a_store_of_a_newer_version_or_none_at_all_is_found(data: Path) -> None:
    assert "of this version" in found(data)["store"].detail
    with sqlite3.connect(data / "portal.sqlite") as store:
        store.execute("UPDATE alembic_version SET version_num = '0001'")
    store.close()
    assert "back it up before" in found(data)["store"].detail
    with sqlite3.connect(data / "portal.sqlite") as store:
        store.execute("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    assert "Update the program" in found(data)["store"].detail
    assert not found(data)["store"].ok
    for rest in data.glob("portal.sqlite*"):
        rest.unlink()
    private(data / "portal.sqlite", "no database, " * 500)
    assert "damaged" in found(data)["store"].detail


def test_a_disk_that_is_nearly_full_is_found(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "GiB free" in found(data)["disk"].detail
    monkeypatch.setattr(folders, "LOW_DISK_BYTES", 2**60)
    assert "free some space" in bad(data, "disk")


def test_a_wrong_setting_and_a_rule_of_no_provider_are_found(data: Path) -> None:
    rule = '{ provider = "nspo", claim = "groups", value = "a" }'
    write_settings(data, "https://id.aist.example", f"administrators = [{rule}]")
    assert "names the provider 'nspo', which is not there" in found(data)["data folder"].detail


# --- groups -------------------------------------------------------------------------------


def offerings(*groups: str, embedded: bool = False, readers: tuple[str, ...] = ()) -> Offerings:
    cluster = ClusterEntry(ClusterId("abci"), "ABCI", "AIST", embedded, groups)
    return Offerings({}, {cluster.id: cluster}, {"landsat8": readers})


def test_groups_that_are_not_there_or_that_nobody_can_be_in_are_found(tmp_path: Path) -> None:
    forest = Group("forest", "Forest", (Rule("aist", "groups", "forest"),))
    chosen = Settings(tmp_path, tmp_path, group=(forest,))
    assert people.groups(chosen, offerings("forest", "everyone")).ok
    assert people.groups(chosen, offerings(readers=("everyone",))).ok
    gone = people.groups(chosen, offerings("forest", "coast"))
    assert not gone.ok
    assert "cluster abci is for the group 'coast'" in gone.detail
    assert gone.detail.endswith('write "everyone" into its file instead')
    many = Settings(tmp_path, tmp_path, provider=(Provider("a", "A", "https://a.example", "p"),))
    assert "add a [[group]]" in people.groups(many, offerings("coast")).detail
    gone = people.groups(chosen, offerings(readers=("coast",)))
    assert "collection landsat8 is for the group 'coast'" in gone.detail
    nobody = people.groups(Settings(tmp_path, tmp_path, group=(Group("x", "X"),)), offerings())
    assert "nobody can be in x" in nobody.detail


def test_work_on_the_portal_s_own_computer_is_found() -> None:
    assert people.embedded(offerings("everyone")).ok
    assert people.embedded(offerings(embedded=True)).ok
    open_here = people.embedded(offerings("everyone", embedded=True))
    assert not open_here.ok
    assert "embedded_groups" in open_here.detail


# --- the clock, systemd -------------------------------------------------------------------


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("answer", "ok", "said"),
    [
        ("echo yes", True, "kept in time"),
        ("echo no", False, "set-ntp true"),
        ("echo 'Failed to connect to bus' >&2; exit 1", True, "in time"),
    ],
)
def test_a_clock_that_nobody_keeps_is_found(
    data: Path, tmp_path: Path, liar: LyingProvider, monkeypatch: pytest.MonkeyPatch,
    answer: str, ok: bool, said: str,
) -> None:  # fmt: skip
    write_settings(data, liar.issuer)
    program(tmp_path, "timedatectl", answer)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    check = found(data)["clock"]
    assert (check.ok, said in check.detail) == (ok, True), check.detail


@pytest.mark.parametrize(
    ("state", "ok", "said"),
    [
        ("LoadState=loaded ActiveState=active UnitFileState=enabled NRestarts=2", True, "2 rest"),
        ("LoadState=loaded ActiveState=failed UnitFileState=enabled", False, "journalctl"),
        ("LoadState=loaded ActiveState=active UnitFileState=disabled", False, "systemctl enable"),
        ("LoadState=bad-setting ActiveState=inactive", False, "systemd-analyze verify"),
        ("LoadState=not-found ActiveState=inactive", None, ""),
    ],
)
def test_a_unit_that_failed_or_is_not_enabled_is_found(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, ok: bool | None,
    said: str,
) -> None:  # fmt: skip
    program(tmp_path, "systemctl", f"printf '%s\\n' {state}")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    check = found(data).get("systemd")
    if ok is None:
        assert check is None
    else:
        assert check is not None
        assert (check.ok, said in check.detail) == (ok, True), check.detail
