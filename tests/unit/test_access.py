"""Authorization, sign-ins and tokens, rule by rule; every route: tests/security."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from lib.auth import OWNER, Membership
from lib.auth.authentication import user_id_of
from lib.auth.authorization import Act
from lib.auth.tokens import LONGEST_TOKEN_S
from lib.config.settings import Group, Provider, Rule
from lib.errors import Conflict, InvalidInput, NotFound, Refused, SignInEnded
from lib.model import ClusterId, SessionId, Tunnel, TunnelState, User, UserId
from lib.store.people import Account
from tests.fakes.people import CLAIMS, World, membership
from tests.fakes.things import a_run, a_session, new_id

NOW = datetime.now(timezone.utc)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    it = World(tmp_path)
    yield it
    it.store.close()


def outcome(world: World, who: str, act: Act, thing: Any = None) -> str:
    try:
        world.access.require(world.speak(who), act, thing)
    except NotFound:
        return "not found"
    except Refused:
        return "refused"
    return "yes"


# --- who may do what to a piece of work ------------------------------------------------------

LOOKED_AFTER = {"alice": "yes", "lee": "yes", "ada": "yes", "kim": "not found", "mate": "not found"}
OWN = {**LOOKED_AFTER, "lee": "refused", "ada": "refused"}


@pytest.mark.parametrize(
    ("act", "expected"),
    [(Act.SEE, LOOKED_AFTER), (Act.STOP, LOOKED_AFTER), (Act.READ, OWN), (Act.OPEN, OWN)],
)
def test_work_is_its_owner_s_and_whose_who_look_after_it(
    world: World, act: Act, expected: dict[str, str]
) -> None:
    """Alice's, whom Lee leads; Kim leads others, Mate is in Alice's group."""
    session_id = SessionId(new_id())
    run = a_run("A", owner=User(world.ids["alice"], "alice"), session=session_id)
    for thing in (run, a_session(run, session_id)):
        assert {who: outcome(world, who, act, thing) for who in expected} == expected


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("read", {Act.ENTER, Act.SEARCH, Act.SEE, Act.READ}),
        ("launch", {Act.ENTER, Act.SEARCH, Act.SEE, Act.STOP}),
    ],
)
def test_a_token_does_what_it_was_made_for(world: World, scope: str, may: set[Act]) -> None:
    run = a_run("A", owner=User(world.ids["alice"], "alice"))
    asked = set(Act) - {Act.READ_SCENE, Act.LAUNCH}
    assert {act for act in asked if outcome(world, f"alice/{scope}", act, run) == "yes"} == may


def test_leads_and_administrators_have_their_pages(world: World) -> None:
    for act, who in ((Act.LEAD, {"lee", "kim", "ada"}), (Act.ADMINISTER, {"ada"})):
        assert {name for name in CLAIMS if outcome(world, name, act) == "yes"} == who


def test_work_starts_through_one_s_own_tunnel(world: World) -> None:
    here = world.offerings.clusters[ClusterId("here")]
    owned = [
        ({"person": world.ids["bob"]}, {"bob"}),
        ({"person": world.ids["bob"], "group": "forest"}, {"bob"}),
        ({"group": "forest"}, {"alice", "mate", "lee"}),
        ({"group": "dissolved"}, set()),
        ({}, set()),
    ]
    for owner, may in owned:
        world.tunnels["here"] = Tunnel(here.id, TunnelState.OPEN, account="root", **owner)
        got = {name for name in CLAIMS if outcome(world, name, Act.LAUNCH, here) == "yes"}
        assert got == may, owner


# --- who is refused has asked in writing -------------------------------------------------------


@pytest.mark.parametrize("act", Act)
def test_a_refusal_is_one_line(world: World, act: Act) -> None:
    """By whichever way it is asked, and with what it was asked for."""
    user, _ = world.powerless()
    run = a_run("A", owner=User(world.ids["alice"], "alice"))
    tried = f"attempt-{act.name.lower().replace('_', '-')}"
    with pytest.raises(Refused):
        world.access.require(user, act, run)
    assert world.refusals(user) == [(tried, run.id, "refused")]
    with pytest.raises(Refused), world.access.audited(user, "stop", "it") as audited:
        audited.require(act, run)
    assert world.refusals(user)[:-1] == [("stop", "it", "refused")]
    with pytest.raises(Refused), world.access.attempted(user, "block", "who") as attempted:
        attempted.require(act, run)
    assert world.refusals(user)[:-2] == [("block", "who", "refused")]


@pytest.mark.parametrize("act", Act)
def test_what_is_asked_for_showing_is_no_line(world: World, act: Act) -> None:
    user, _ = world.powerless()
    run = a_run("A", owner=User(world.ids["alice"], "alice"))
    before = world.store.audit.latest()
    assert not world.access.may(user, act, run)
    assert "access token" in world.access.why_not(user, act, run)
    assert world.store.audit.latest() == before


def test_an_act_is_one_line_whatever_comes_of_it(world: World) -> None:
    bob = world.speak("bob")
    run = a_run("A", owner=User(world.ids["alice"], "alice"))
    before = len(world.store.audit.latest())
    with world.access.audited(bob, "start-run", "here") as act:
        act.require(Act.SEARCH)
        act.object = run.id
    with pytest.raises(Conflict), world.access.audited(bob, "start-again", "old"):
        raise Conflict("It still runs.")
    with suppress(NotFound), world.access.audited(bob, "stop", "it") as act:
        try:
            act.require(Act.SEE, run)
        except NotFound as exc:
            raise NotFound("Nor elsewhere.") from exc  # follows from it: no refusal of its own
    with world.access.attempted(bob, "sign-out", "it"):
        pass  # what did it has written so
    new = world.store.audit.latest(len(world.store.audit.latest()) - before)
    assert [(e.action, e.object, e.result, e.detail) for e in reversed(new)] == [
        ("start-run", run.id, "ok", ""),
        ("start-again", "old", "conflict", "It still runs."),
        ("stop", "it", "not-found", "There is no such run."),
    ]


# --- who may no longer come -------------------------------------------------------------------


def test_a_token_ends_with_the_access_of_its_owner(world: World) -> None:
    token = world.auth.tokens.new("t", user=User(world.ids["alice"], "alice"))
    came = world.auth.tokens.user_of(token)
    assert came is not None
    assert world.auth.again(came).id == world.ids["alice"]
    world.auth.membership = Membership()  # the settings no longer name their institute
    assert world.auth.tokens.user_of(token) is None
    with pytest.raises(SignInEnded):
        world.auth.again(came)


def test_a_sign_in_ends_with_the_access_of_its_owner(world: World) -> None:
    secret = world.auth.logins.begin(world.ids["alice"], "test", "", "")
    assert world.auth.logins.of_secret(secret) is not None
    world.auth.membership = Membership()
    assert world.auth.logins.of_secret(secret) is None


def test_nobody_speaks_by_the_token_of_another(world: World) -> None:
    token = world.speak("bob/read")
    assert world.auth.again(token).id == world.ids["bob"]
    with pytest.raises(SignInEnded):
        world.auth.again(User(world.ids["alice"], "alice", scopes=token.scopes, via=token.via))


def test_what_a_block_took_away_does_not_come_back_with_the_access(world: World) -> None:
    ada, alice = world.speak("ada"), world.ids["alice"]
    token = world.auth.tokens.new("t", user=User(alice, "alice"))
    secret = world.auth.logins.begin(alice, "test", "", "")
    world.auth.block(alice, blocked=True, by=ada)
    world.auth.block(alice, blocked=False, by=ada)
    assert world.auth.tokens.user_of(token) is None
    assert world.auth.logins.of_secret(secret) is None
    assert outcome(world, "alice", Act.ENTER) == "yes"


def test_nobody_blocks_themselves_or_the_owner(world: World) -> None:
    ada = world.speak("ada")
    for user_id in (ada.id, OWNER.id):
        with pytest.raises(Refused, match="cannot block"):
            world.auth.block(user_id, blocked=True, by=ada)
    assert world.auth.again(ada).id == ada.id


def test_a_token_lives_for_a_year_at_most(world: World) -> None:
    alice = User(world.ids["alice"], "alice")
    assert world.auth.tokens.new("t", user=alice, lifetime_s=LONGEST_TOKEN_S)
    for lifetime_s in (LONGEST_TOKEN_S + 1, 0, -1, float("nan")):
        with pytest.raises(InvalidInput, match="at most a year"):
            world.auth.tokens.new("t", user=alice, lifetime_s=lifetime_s)


# --- who is who, and what they are -------------------------------------------------------------


def test_a_subject_is_a_person_of_its_issuer() -> None:
    one = user_id_of("https://one.example", "17")
    assert one == user_id_of("https://one.example", "17")
    others = [
        ("https://two.example", "17"),
        ("https://one.example", "18"),
        ("https://one.example1", "7"),
    ]
    assert one not in {user_id_of(*other) for other in others}


@pytest.mark.parametrize(
    ("verified", "member"),
    [({"email_verified": True}, True), ({"email_verified": False}, False),
     ({"email_verified": "true"}, False), ({}, False)],
)  # fmt: skip
def test_an_address_counts_where_the_institute_verified_it(
    verified: dict[str, Any], member: bool
) -> None:
    rule = (Rule("test", "email", "ada@one.example"),)
    provider = Provider("test", "Test", "https://one.example", "portal", allow=rule)
    rules = Membership([provider], [Group("g", "G", rule, ())])
    claims = {"email": "ada@one.example", **verified}
    account = Account(
        UserId("u-1"), "Ada", "test", claims, created_at=NOW, seen_at=None, blocked=False
    )
    assert rules.user(account).groups == (frozenset({"g"}) if member else frozenset())


def test_who_may_come_is_asked_of_the_settings(world: World) -> None:
    account = world.store.people.account(world.ids["alice"])
    assert membership().may_come(account)
    some = Provider(
        "test", "Test", "https://one.example", "portal", allow=(Rule("test", "groups", "coast"),)
    )
    assert not Membership([some]).may_come(account)
    assert Membership([some]).may_come(world.store.people.account(world.ids["bob"]))
