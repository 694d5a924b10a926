"""Sign-in links, logins and tokens over a real store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from lib.auth import COOKIE, OWNER, Auth
from lib.auth.names import names_of
from lib.auth.secret import digest
from lib.errors import Refused
from lib.model import JsonValue, UserId
from lib.store import Store
from lib.store.people import Account
from tests.fakes.stores import new_store
from tests.fakes.things import ALICE, MEMBERSHIP, TIME, introduce


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = new_store(tmp_path / "portal.sqlite")
    yield store
    store.close()


@pytest.fixture
def auth(store: Store) -> Auth:
    return Auth(store)


def key_of(link: str) -> str:
    return parse_qs(urlsplit(link).query)["key"][0]


def test_a_link_signs_in_once(auth: Auth, store: Store) -> None:
    link = auth.links.new("http://localhost:8501")
    assert link.startswith("http://localhost:8501/signin?key=")
    secret = auth.sign_in(key_of(link), "127.0.0.1")
    login = auth.logins.of_secret(secret)
    assert login is not None
    assert login.user == OWNER
    with pytest.raises(Refused, match="used already or is too old"):
        auth.sign_in(key_of(link))
    assert [(e.action, e.result) for e in store.audit.latest()] == [
        ("sign-in", "refused"),
        ("sign-in", "ok"),
        ("link-made", "ok"),
    ]


def test_of_many_at_once_one_gets_in(auth: Auth) -> None:
    key = key_of(auth.links.new("http://localhost"))

    def try_it(_: int) -> bool:
        try:
            auth.sign_in(key)
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_it, range(8))) == 1


def test_a_link_that_is_too_old_is_refused(auth: Auth, store: Store) -> None:
    store.people.add_link(digest("old"), OWNER.id, time.time() - 1)
    with pytest.raises(Refused):
        auth.sign_in("old")


@pytest.mark.parametrize("key", ["", "x", "' or 1=1 --", "\x00", "é" * 3000])
def test_invented_keys_are_refused(auth: Auth, key: str) -> None:
    with pytest.raises(Refused):
        auth.sign_in(key)


def signed_in(auth: Auth) -> str:
    return auth.sign_in(key_of(auth.links.new("http://localhost")))


def test_a_cookie_header_is_read_strictly(auth: Auth) -> None:
    secret = signed_in(auth)
    good = f"{COOKIE}={secret}"
    for header in (good, f"a=b; {good}; c", f"  {good}  "):
        login = auth.logins.of_header(header)
        assert login is not None, header
    for header in (
        "",
        COOKIE,
        f"{COOKIE}=",
        f"x{good}",
        f"{good}x",
        f"{good}; {good}",
        f"{good}; {COOKIE}=other",
        f'{COOKIE}="',
        good.upper(),
    ):
        assert auth.logins.of_header(header) is None, header
    assert auth.logins.of_cookies({COOKIE: secret}) is not None
    assert auth.logins.of_cookies({}) is None


def test_a_login_ends(auth: Auth, store: Store) -> None:
    secret = signed_in(auth)
    login = auth.logins.of_secret(secret)
    assert login is not None
    assert auth.logins.by_id(login.id) == login
    auth.logins.sign_out(login)
    assert auth.logins.of_secret(secret) is None
    assert auth.logins.by_id(login.id) is None
    store.people.add_login("late", digest("late"), OWNER.id, time.time() - 1)
    assert auth.logins.of_secret("late") is None
    assert auth.logins.by_id("late") is None


def test_an_end_by_another_process_is_seen_within_a_quarter_of_a_second(store: Store) -> None:
    now = 100.0
    auth = Auth(store, clock=lambda: now)
    login = auth.logins.of_secret(signed_in(auth))
    assert login is not None
    store.people.revoke_login(login.id)
    assert auth.logins.by_id(login.id) == login
    now += 0.25
    assert auth.logins.by_id(login.id) is None


def test_of_a_flood_of_strangers_the_beginning_is_written_and_how_many_came(store: Store) -> None:
    auth = Auth(store)
    for n in range(300):
        auth.log_refusal(f"/{n}", "a token that does not count", "192.0.2.7")
    lines = store.audit.latest(1000)
    assert [line.object for line in lines] == [f"/{n}" for n in range(99, -1, -1)]
    store.audit.tell_repeated()
    told = store.audit.latest(1)[0]
    assert (told.action, told.object, told.detail) == ("stranger", "", "(and 200 more like it)")


def test_a_token_is_valid_until_it_is_revoked_or_too_old(auth: Auth, store: Store) -> None:
    token = auth.tokens.new("laptop")
    assert token.startswith("sbt_")
    assert auth.tokens.user_of(token) == OWNER
    made = store.audit.latest(1)[0]
    assert (made.action, made.detail) == ("token-made", "laptop: launch read")
    store.people.revoke_token(made.object)
    assert auth.tokens.user_of(token) is None
    store.people.add_token("t", digest("sbt_old"), OWNER.id, "old", time.time() - 1)
    assert auth.tokens.user_of("sbt_old") is None


def test_secrets_of_one_kind_do_not_open_another_door(auth: Auth) -> None:
    secret, token = signed_in(auth), auth.tokens.new("x")
    key = key_of(auth.links.new("http://localhost"))
    assert auth.tokens.user_of(secret) is None
    assert auth.tokens.user_of(key) is None
    assert auth.logins.of_secret(token) is None
    assert auth.logins.of_secret(key) is None
    with pytest.raises(Refused):
        auth.sign_in(token)


def test_nothing_secret_is_in_the_file(auth: Auth, store: Store, tmp_path: Path) -> None:
    secrets = [signed_in(auth), auth.tokens.new("x")]
    secrets.append(key_of(auth.links.new("http://localhost")))
    store.close()
    content = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert digest(secrets[0]).encode() in content
    for secret in secrets:
        assert secret.encode() not in content


# --- names ------------------------------------------------------------------------------------


def an_account(ident: str, name: str, provider: str = "aist", **claims: JsonValue) -> Account:
    return Account(UserId(ident), name, provider, claims, TIME, None, blocked=False)


def test_two_that_could_be_confused_are_told_apart() -> None:
    kato = an_account("u-1", "Kato Ken", email="ken@aist.example", email_verified=True)
    other = an_account("u-2", " KATO  Ken", email="ken@aist.example")
    wide = an_account("u-3", "Ｋato Ken", "nspo", email="kato@nspo.example", email_verified=True)
    lin = an_account("u-4", "Lin Li")
    nameless = an_account("u-5", " ", email="x@aist.example", email_verified=True)
    owner = an_account("owner", "Owner of this portal", "")
    would_be = an_account("u-6", "Owner of this Portal")
    assert names_of([kato, lin]) == {"u-1": "Kato Ken", "u-4": "Lin Li"}
    assert names_of([kato, other, wide, lin, nameless, owner, would_be]) == {
        "u-1": "Kato Ken (ken@aist.example, aist)",
        "u-2": " KATO  Ken (u-2, aist)",
        "u-3": "Ｋato Ken (kato@nspo.example, nspo)",
        "u-4": "Lin Li",
        "u-5": "x@aist.example, aist",
        "owner": "Owner of this portal (this portal's computer)",
        "u-6": "Owner of this Portal (u-6, aist)",
    }


def test_who_has_just_come_has_a_name(tmp_path: Path) -> None:
    store = new_store(tmp_path / "portal.sqlite")
    auth = Auth(store, MEMBERSHIP)
    assert auth.name_of(UserId("alice")) == "alice", "nobody knows them"
    introduce(store, ALICE)
    assert auth.name_of(ALICE.id) == "Alice"
    store.close()
