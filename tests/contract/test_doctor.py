"""admin.py doctor: each fault is made, found, and said with what to do."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib import commands, doctor
from lib.catalogs import Catalogs, ClusterEntry
from lib.doctor import folders, internet, people
from lib.model import ClusterId
from lib.places import runtime_path
from lib.settings import Group, Rule, Settings
from lib.store import Store
from tests.fakes.authority import Authority, SecureSite, secure_site
from tests.fakes.lying_provider import LyingProvider, lying_provider


def found(data: Path) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(data)}


def bad(data: Path, name: str) -> str:
    """What is said of one fault: what is wrong and what to do."""
    check = found(data)[name]
    assert not check.ok, check.detail
    assert ": " in check.detail
    return check.detail


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder as a portal with a provider leaves it."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "secrets").mkdir(mode=0o700)
    private(folder / "secrets" / "oidc-aist", "secret")
    private(folder / "secrets" / "notebook-cookies", "x")
    (folder / "keys").mkdir(mode=0o700)
    private(folder / "keys" / "here", "key")
    (folder / "keys" / "here.pub").write_text("public")
    Store(folder / "portal.sqlite").close()
    return folder


def private(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o600)


@pytest.fixture
def liar() -> Iterator[LyingProvider]:
    with lying_provider() as it:
        yield it


def write_settings(data: Path, issuer: str, *lines: str, more: str = "") -> None:
    provider = f'[[provider]]\nid = "aist"\nissuer = "{issuer}"\nclient_id = "portal"\n'
    (data / "settings.toml").write_text("\n".join([*lines, provider, more]))
    (data / "settings.toml").chmod(0o600)


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


def catalogs(*groups: str, embedded: bool = False, readers: tuple[str, ...] = ()) -> Catalogs:
    cluster = ClusterEntry(ClusterId("abci"), "ABCI", "AIST", embedded, groups)
    return Catalogs({}, {cluster.id: cluster}, {"landsat8": readers})


def test_groups_that_are_not_there_or_that_nobody_can_be_in_are_found(tmp_path: Path) -> None:
    forest = Group("forest", "Forest", (Rule("aist", "groups", "forest"),))
    chosen = Settings(tmp_path, tmp_path, group=(forest,))
    assert people.groups(chosen, catalogs("forest", "everyone")).ok
    assert people.groups(chosen, catalogs(readers=("everyone",))).ok
    gone = people.groups(chosen, catalogs("forest", "coast"))
    assert not gone.ok
    assert "cluster abci is for the group 'coast'" in gone.detail
    gone = people.groups(chosen, catalogs(readers=("coast",)))
    assert "collection landsat8 is for the group 'coast'" in gone.detail
    nobody = people.groups(Settings(tmp_path, tmp_path, group=(Group("x", "X"),)), catalogs())
    assert "nobody can be in x" in nobody.detail


def test_work_on_the_portal_s_own_computer_is_found() -> None:
    assert people.embedded(catalogs("everyone")).ok
    assert people.embedded(catalogs(embedded=True)).ok
    open_here = people.embedded(catalogs("everyone", embedded=True))
    assert not open_here.ok
    assert "groups = []" in open_here.detail


# --- providers ----------------------------------------------------------------------------


def test_a_provider_that_answers(data: Path, liar: LyingProvider) -> None:
    write_settings(data, liar.issuer)
    check = found(data)["provider aist"]
    assert check.ok
    assert "1 keys" in check.detail


@pytest.mark.parametrize(
    ("fault", "value", "said"),
    [
        ("status", {"metadata": 500}, "has a fault (500)"),
        ("body", {"metadata": b"<html>"}, "cannot read"),
        ("body", {"keys": b"{}"}, "cannot read"),
        ("metadata", {"issuer": "https://evil.example"}, "as the issuer"),
        ("metadata", {"token_endpoint": None}, "cannot read"),
        ("clock_ahead_s", 720, "12 minutes apart"),
        ("clock_ahead_s", -720, "12 minutes apart"),
    ],
)
def test_a_provider_that_lies_is_found(
    data: Path, liar: LyingProvider, fault: str, value: object, said: str
) -> None:
    write_settings(data, liar.issuer)
    setattr(liar, fault, value)
    assert said in bad(data, "provider aist")


def test_a_slow_and_a_dead_provider_are_found(
    data: Path, liar: LyingProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(data, liar.issuer)
    monkeypatch.setattr(people, "_LIMIT_S", 0.5)
    liar.delay_s = {"metadata": 2}
    assert "takes too long" in bad(data, "provider aist")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        write_settings(data, f"http://127.0.0.1:{nobody.getsockname()[1]}/realm/")
        said = bad(data, "provider aist")
    assert "cannot be reached" in said
    assert said.endswith("/realm/.well-known/openid-configuration")


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


# --- names and certificates -----------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """One that this process trusts, and no other."""
    folder = tmp_path / "authority"
    folder.mkdir()
    it = Authority(folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(it.file))
    return it


PORTAL, NOTEBOOKS = "portal.localhost", "nb.localhost"


@pytest.fixture
def site(data: Path, liar: LyingProvider, authority: Authority) -> Iterator[SecureSite]:
    """A front server with good certificates, and the settings of a portal behind it."""
    certificates = {PORTAL: authority.issue(PORTAL), NOTEBOOKS: authority.issue(f"*.{NOTEBOOKS}")}
    with secure_site(certificates) as it:
        write_settings(
            data,
            liar.issuer,
            f'public_origin = "https://{PORTAL}:{it.port}"',
            f'notebook_domain = "{NOTEBOOKS}:{it.port}"',
        )
        yield it


def test_good_certificates_are_good(data: Path, site: SecureSite) -> None:
    checks = found(data)
    for name in ("TLS portal", "TLS notebooks"):
        assert checks[name].ok, checks[name].detail
        assert "90 days, with HSTS" in checks[name].detail


@pytest.mark.parametrize(("name", "host"), [("portal", PORTAL), ("notebooks", NOTEBOOKS)])
def test_a_bad_certificate_is_found(
    data: Path, site: SecureSite, authority: Authority, tmp_path: Path, name: str, host: str
) -> None:
    own = host if name == "portal" else f"*.{host}"
    (tmp_path / "other").mkdir()
    faults = {
        "renew it": authority.issue(own, days=-1),
        "ends in 13 days": authority.issue(own, days=13.1),
        "get a certificate for this name": authority.issue(f"x.y.{host}"),
        "use one of an authority": authority.issue(own, self_signed=True),
        "with its whole chain": Authority(tmp_path / "other", "Another").issue(own),
    }
    for said, issued in faults.items():
        site.certificates[host] = issued
        assert said in bad(data, f"TLS {name}")
    for good in (authority.issue(own, days=14.5), authority.issue(own, days=2, of=6)):
        site.certificates[host] = good
        assert found(data)[f"TLS {name}"].ok
    site.certificates[host] = authority.issue(own, days=1, of=6)
    assert "ends in 1 days" in bad(data, f"TLS {name}")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "no Strict-Transport-Security"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "do the ports agree"),
        (b"SSH-2.0-x\r\n\r\n", "cannot be reached"),
        (b"HTTP/1.1", "no answer of a web server"),
    ],
)
def test_a_wrong_answer_is_found(data: Path, site: SecureSite, answer: bytes, said: str) -> None:
    site.answer = answer
    assert said in bad(data, "TLS portal")
    assert said in bad(data, "TLS notebooks")


def test_a_front_server_that_is_down_is_found(data: Path, liar: LyingProvider) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        write_settings(
            data,
            liar.issuer,
            f'public_origin = "https://{PORTAL}:{port}"',
            f'notebook_domain = "{NOTEBOOKS}:{port}"',
        )
        assert "is the front server running" in bad(data, "TLS portal")


def test_names_that_do_not_resolve_are_found(data: Path, liar: LyingProvider) -> None:
    write_settings(
        data,
        liar.issuer,
        'public_origin = "https://portal.scenebridge.invalid"',
        'notebook_domain = "notebooks.invalid"',
    )
    assert "add a DNS record for portal.scenebridge.invalid" in bad(data, "DNS portal")
    assert "add a wildcard record *.notebooks.invalid" in bad(data, "DNS notebooks")
    assert "cannot be reached" in bad(data, "TLS portal")


def test_names_that_lead_to_two_places_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a resolver would say of names that only a real zone could hold."""
    zone = {"portal.example.org": "192.0.2.1", "nb-1.notebooks.example.net": "192.0.2.2"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *_, **__: [(2, 1, 6, "", (zone[host], 0))]
    )
    portal, notebooks = (internet._Place(h, h, h, 443) for h in zone)
    (*_, last) = internet.names(portal, notebooks)
    assert not last.ok
    assert "the one front server" in last.detail
    zone["nb-1.notebooks.example.net"] = "192.0.2.1"
    assert all(check.ok for check in internet.names(portal, notebooks))


@pytest.mark.parametrize(
    ("portal", "notebooks", "apart"),
    [
        ("portal.example.org", "scenes-notebooks.net", True),
        ("portal.example.org", "notebooks.example.org", False),
        ("portal.example.org", "nb.portal.example.org", False),
        ("portal.aist.go.jp", "notebooks.jaxa.go.jp", True),
        ("portal.aist.go.jp", "notebooks.aist.go.jp", False),
        ("portal.localhost", "nb.localhost", True),
    ],
)
def test_a_notebook_domain_that_is_the_portal_s_is_found(
    portal: str, notebooks: str, apart: bool
) -> None:
    assert internet.domains(portal, notebooks).ok == apart


# --- the command ---------------------------------------------------------------------------


def test_the_command_says_it_for_people_and_programs(
    data: Path, site: SecureSite, capsys: pytest.CaptureFixture[str]
) -> None:
    site.answer = b"HTTP/1.1 502 x\r\n\r\n"
    assert commands.run(["doctor", "--data", str(data)]) == 1
    said = capsys.readouterr().out
    assert "\nBAD  TLS portal: " in said
    assert "\nok   provider aist: " in said
    assert commands.run(["doctor", "--data", str(data), "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == len(said.splitlines())
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
