"""admin.py users, token, tokens, audit, announce, as users call them, on a real store."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib import cli
from lib.auth import OWNER, Auth, auth_of
from lib.auth.authentication import user_id_of
from lib.auth.names import names_of
from lib.cli.output import plain, plain_json, table
from lib.config import settings
from lib.model import TokenScope
from lib.portal.admin import json_line
from lib.store import Store
from lib.store.audit import AuditQuery
from tests.fakes.stores import new_store

SETTINGS = """
administrators = [{ provider = "aist", claim = "groups", value = "admins" }]

[[provider]]
id = "aist"
title = "AIST"
issuer = "https://id.aist.example"
client_id = "scenebridge"

[[group]]
id = "forest"
title = "Forest"
members = [{ provider = "aist", claim = "groups", value = "forest" }]
"""
ISSUER = "https://id.aist.example"
KATO, LIN, EVE = (user_id_of(ISSUER, who) for who in ("kato", "lin", "eve"))
#: Clears a screen, sets its title, turns text around, and begins a line that is not there.
HOSTILE = "Eve\x1b[2J\x1b]0;pwned\x07\x9b31m\u202eevE\nroot  administrator"


class Place:
    """A data folder, and commands on it."""

    def __init__(self, data: Path, capsys: Any) -> None:
        self.data = data
        self._capsys = capsys
        self.store = new_store(data / "portal.sqlite")
        self.auth: Auth = auth_of(settings.load(data), self.store)

    def admin(self, *arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.run([*map(str, arguments), "--data", str(self.data)])
        except SystemExit as exc:
            code = int(exc.code or 0)
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def json(self, *arguments: object) -> Any:
        code, out, err = self.admin(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    def comes(self, subject: str, name: str, *groups: str) -> str:
        return self.auth.admit(
            "aist", subject, name=name, claims={"groups": list(groups)}, issuer=ISSUER,
            client="192.0.2.7",
        )  # fmt: skip

    def last(self) -> tuple[str, str, str, str]:
        entry = self.store.audit.latest(1)[0]
        return entry.user, entry.action, entry.object, entry.via


@pytest.fixture
def place(tmp_path: Path, capsys: Any) -> Iterator[Place]:
    (tmp_path / "settings.toml").write_text(SETTINGS)
    it = Place(tmp_path, capsys)
    yield it
    it.store.close()


# --- users ----------------------------------------------------------------------------------


def test_everybody_is_listed_with_what_they_are(place: Place) -> None:
    place.comes("kato", "加藤 健", "forest")
    place.comes("kato", "加藤 健", "forest")
    place.comes("lin", "Lin Li", "admins")
    listed = {person["id"]: person for person in place.json("users", "list")}
    assert listed[KATO]["groups"] == ["forest"]
    assert listed[KATO]["sign_ins"] == 2
    assert listed[LIN]["role"] == "administrator"
    assert listed[OWNER.id]["provider"] == ""
    code, out, _ = place.admin("users", "list")
    assert code == 0
    assert "加藤 健" in out
    head, *rows = out.splitlines()
    assert head.split()[:6] == ["ID", "NAME", "PROVIDER", "GROUPS", "ROLE", "SIGN-INS"]
    assert len(rows) == 3


def test_a_hostile_name_is_one_harmless_line(place: Place) -> None:
    place.comes("eve", HOSTILE)
    for form in ((), ("--json",)):
        _, out, _ = place.admin("users", "list", *form)
        assert all(c.isprintable() or c == "\n" for c in out)
    _, out, _ = place.admin("users", "list")
    assert len(out.splitlines()) == 3
    assert "\\x1b[2J" in out
    assert place.json("users", "list")[0]["name"] == HOSTILE
    for command in ("block", "unblock", "sign-out"):
        _, out, _ = place.admin("users", command, EVE)
        assert "\x1b" not in out
    code, _, err = place.admin("users", "block", "\x1b[2J")
    assert code == 1
    assert "\x1b" not in err


def test_signing_out_ends_every_sign_in_and_is_written_down(place: Place) -> None:
    cookies = [place.comes("kato", "Kato") for _ in range(2)]
    other = place.comes("lin", "Lin")
    assert place.json("users", "sign-out", KATO) == {"id": KATO, "ended": 2}
    assert [place.auth.logins.of_secret(cookie) for cookie in cookies] == [None, None]
    assert place.auth.logins.of_secret(other) is not None
    assert place.last() == (OWNER.id, "sign-out-everywhere", KATO, "admin.py")


def test_who_is_blocked_is_out_until_unblocked(place: Place) -> None:
    cookie = place.comes("kato", "Kato")
    kato = place.auth.logins.of_secret(cookie).user
    token = place.auth.tokens.new("script", user=kato)
    code, out, _ = place.admin("users", "block", KATO)
    assert (code, "Kato is blocked" in out) == (0, True)
    assert place.auth.logins.of_secret(cookie) is None
    assert place.auth.tokens.user_of(token) is None
    assert "blocked" in place.admin("users", "list")[1]
    assert ("block", "admin.py") in {(e.action, e.via) for e in place.store.audit.latest(3)}
    assert place.json("users", "unblock", KATO)["blocked"] is False
    assert place.last() == (OWNER.id, "unblock", KATO, "admin.py")
    assert place.auth.logins.of_secret(place.comes("kato", "Kato")) is not None
    assert place.auth.tokens.user_of(token) is None


@pytest.mark.parametrize("command", ["sign-out", "block", "unblock"])
def test_nobody_is_nobody(place: Place, command: str) -> None:
    code, out, err = place.admin("users", command, "u-nobody")
    assert (code, out) == (1, "")
    assert "no person 'u-nobody'" in err


def test_the_owner_cannot_be_locked_out(place: Place) -> None:
    code, _, err = place.admin("users", "block", "owner")
    assert code == 1
    assert "cannot block" in err


@pytest.mark.parametrize("command", [("users", "list"), ("audit",), ("link",), ("doctor",)])
def test_another_account_is_told_whose_the_folder_is(
    place: Place, command: tuple[str, ...]
) -> None:
    place.admin("--help")  # loads every part: the other account may not read this folder
    before = os.geteuid()
    place.data.chmod(0o700 if before == 0 else 0)
    if before == 0:
        os.seteuid(65534)  # root may enter everywhere
    try:
        code, out, err = place.admin(*command)
    finally:
        os.seteuid(before)
        place.data.chmod(0o700)
    assert (code, out) == (1, "")
    assert "run this as that account" in err
    assert err.count("\n") == 1


# --- tokens ---------------------------------------------------------------------------------


def test_a_token_does_what_it_is_for_and_no_longer_than_it_should(place: Place) -> None:
    _, out, _ = place.admin("token", "--scope", "read", "--days", 3, "--name", "nightly")
    assert place.last()[3] == "admin.py"
    user = place.auth.tokens.user_of(out.strip())
    assert user is not None
    assert user.scopes == {TokenScope.READ}
    (listed,) = place.json("tokens", "list")
    assert (listed["name"], listed["scopes"]) == ("nightly", ["read"])
    (found,) = place.auth.tokens.of(OWNER.id)
    assert 2.9 * 86400 < (found.expires_at.timestamp() - time.time()) < 3.1 * 86400
    _, shown, _ = place.admin("tokens", "list")
    assert "nightly" in shown
    assert out.strip() not in shown
    assert place.json("tokens", "withdraw", found.id) == {"withdrawn": [found.id]}
    assert place.last() == (OWNER.id, "token-withdrawn", found.id, "admin.py")
    assert place.auth.tokens.user_of(out.strip()) is None
    code, _, err = place.admin("tokens", "withdraw", found.id)
    assert (code, "withdrawn already" in err) == (1, True)
    assert place.admin("tokens", "list")[1] == "There are no tokens.\n"


def test_a_token_of_somebody_else_is_not_the_owner_s(place: Place) -> None:
    kato = place.auth.logins.of_secret(place.comes("kato", "Kato")).user
    token = place.auth.tokens.new("script", user=kato)
    (his,) = place.auth.tokens.of(KATO)
    assert place.admin("tokens", "withdraw", his.id)[0] == 1
    assert place.auth.tokens.user_of(token) is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--days", "0"), "at most a year"),
        (("--days", "367"), "at most a year"),
        (("--name", " "), "a name"),
        (("--scope", "everything"), "invalid choice"),
    ],
)
def test_a_wrong_token_is_not_made(place: Place, options: tuple[str, ...], said: str) -> None:
    code, out, err = place.admin("token", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert place.auth.tokens.of(OWNER.id) == ()


def test_a_link_says_where_it_came_from(place: Place) -> None:
    place.json("link")
    assert place.last() == (OWNER.id, "link-made", "", "admin.py")


# --- the audit log ----------------------------------------------------------------------------


@pytest.fixture
def told(place: Place) -> Place:
    """Five lines: link, two sign-ins, a hostile refusal, a launch."""
    place.json("link")
    place.comes("kato", "Kato")
    place.comes("lin", "Lin")
    place.auth.log_refusal("/api/\x1b[2J\nx", "another site's page", "203.0.113.9")
    place.store.audit.write(KATO, "launch", "session-1", detail="100%_done")
    return place


@pytest.mark.parametrize(
    ("options", "actions"),
    [
        ((), ["launch", "stranger", "sign-in", "sign-in", "link-made"]),
        (("--limit", "2"), ["launch", "stranger"]),
        (("--refused",), ["stranger"]),
        (("--action", "sign-in"), ["sign-in", "sign-in"]),
        (("--user", KATO), ["launch", "sign-in"]),
        (("203.0.113",), ["stranger"]),
        (("%_",), ["launch"]),
        (("--since", "1h"), ["launch", "stranger", "sign-in", "sign-in", "link-made"]),
        (("--until", "1h"), []),
        (("--since", "2100-01-01"), []),
        (("--until", "2100-01-01T08:00", "--since", "2020-01-01T00:00:00+09:00", "link"),
         ["link-made"]),
    ],
)  # fmt: skip
def test_the_log_can_be_searched(told: Place, options: tuple[str, ...], actions: list[str]) -> None:
    assert [line["action"] for line in told.json("audit", *options)] == actions
    _, out, _ = told.admin("audit", *options)
    assert all(c.isprintable() or c == "\n" for c in out)
    if actions:
        assert len(out.splitlines()) == 1 + len(actions)
    else:
        assert out == "No line matches.\n"


@pytest.mark.parametrize(
    "options", [("--since", "yesterday"), ("--limit", "0"), ("--jsonl", "x", "--limit", "3")]
)
def test_a_wrong_question_is_said(told: Place, options: tuple[str, ...]) -> None:
    code, out, err = told.admin("audit", *options)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_the_export_is_the_log_itself(told: Place, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    code, out, _ = told.admin("audit", "--jsonl", file)
    lines = file.read_bytes().splitlines(keepends=True)
    assert code == 0
    assert out == f"{len(lines)} lines are in {file}.\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    names = names_of(told.store.people.accounts())
    assert lines == [json_line(entry, names) for entry in told.store.audit.export(AuditQuery())]
    assert told.last() == (OWNER.id, "audit-export", "", "admin.py")
    assert json.loads(lines[-1])["action"] == "audit-export"
    code, _, err = told.admin("audit", "--jsonl", file)
    assert (code, "there already" in err) == (1, True)
    assert file.read_bytes().splitlines(keepends=True) == lines
    code, _, err = told.admin("audit", "--jsonl", tmp_path / "no" / "x")
    assert (code, "cannot be written" in err) == (2, True)


def test_the_export_can_be_printed(told: Place) -> None:
    code, out, _ = told.admin("audit", "--refused", "--jsonl", "-")
    assert code == 0
    (line,) = out.splitlines()
    assert json.loads(line)["object"] == "/api/\x1b[2J\nx"
    assert "\x1b" not in out
    _, again, _ = told.admin("audit", "--refused", "--jsonl", "-", "--json")
    assert again == out


def test_a_reader_that_has_seen_enough_is_no_fault(
    told: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Closed(io.TextIOWrapper):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    with (tmp_path / "out").open("wb") as raw:
        monkeypatch.setattr(sys, "stdout", Closed(raw))
        assert cli.run(["audit", "--jsonl", "-", "--data", str(told.data)]) == 1


# --- announcements -------------------------------------------------------------------------


def test_something_is_announced_and_ended(place: Place) -> None:
    assert place.json("announce", "add", "Maintenance\x1b[2J at six", "--kind", "warn")
    assert place.last()[1::2] == ("announce", "admin.py")
    (shown,) = place.json("announce", "list")
    assert shown["kind"] == "warn"
    assert "\x1b" not in place.admin("announce", "list")[1]
    assert place.json("announce", "end", shown["number"]) == {"ended": shown["number"]}
    assert place.last()[1::2] == ("announcement-ended", "admin.py")
    assert place.admin("announce", "list")[1] == "Nothing is announced.\n"
    code, _, err = place.admin("announce", "add", "x", "--hours", "0")
    assert (code, "at most 90 days" in err) == (2, True)


# --- backup ---------------------------------------------------------------------------------


def test_a_portal_comes_back_from_its_backup(place: Place, tmp_path: Path) -> None:
    cookie = place.comes("kato", "Kato", "forest")  # in the store's write-ahead log still
    (place.data / "secrets").mkdir(mode=0o700)
    (place.data / "secrets" / "oidc-aist").write_text("secret")
    (place.data / "secrets" / "oidc-aist").chmod(0o600)
    file = tmp_path / "kept" / "portal.tar.gz"
    file.parent.mkdir()
    assert place.json("backup", file)["bytes"] == file.stat().st_size
    assert place.last()[1::2] == ("backup", "admin.py")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    place.admin("users", "block", KATO)
    restored = tmp_path / "restored"
    restored.mkdir(mode=0o700)
    subprocess.run(["tar", "-xzf", file, "-C", restored], check=True)
    assert (restored / "settings.toml").read_text() == SETTINGS
    assert stat.S_IMODE((restored / "secrets" / "oidc-aist").stat().st_mode) == 0o600
    assert stat.S_IMODE((restored / "portal.sqlite").stat().st_mode) == 0o600
    store = Store(restored / "portal.sqlite")
    login = auth_of(settings.load(restored), store).logins.of_secret(cookie)
    assert login is not None
    assert login.user.groups == {"forest"}
    store.close()


def test_a_backup_is_replaced_only_on_request_and_as_a_whole(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "x.tar.gz"
    file.write_text("the last one")
    code, _, err = place.admin("backup", file)
    assert (code, "--replace" in err) == (1, True)
    assert file.read_text() == "the last one"
    assert place.admin("backup", file, "--replace")[0] == 0
    assert tarfile.is_tarfile(file)
    code, _, err = place.admin("backup", tmp_path / "no" / "x")
    assert (code, "could not be written" in err) == (1, True)


# --- what is printed -----------------------------------------------------------------------


def test_what_a_terminal_would_obey_is_written_as_its_code() -> None:
    assert plain("a\x1b[2Jb\x9b\u202e\u2028\ud800\tc\n") == (
        "a\\x1b[2Jb\\x9b\\u202e\\u2028\\ud800\\tc\n"
    )
    assert plain("加藤\u3000健 é") == "加藤 健 é"
    for text in ("a\x7f\x9b\u202e\U000e0001", "\ud800"):
        assert json.loads(plain_json(json.dumps(text, ensure_ascii=False))) == text
    assert table(("A", "B"), [("加藤", "x"), ("a\nb", "y")]) == "A     B\n加藤  x\na\\nb  y"
