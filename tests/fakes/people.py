"""A Portal in memory's reach with people of several groups and roles; no cluster, no server."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, cast

from lib.auth import Auth, Membership
from lib.auth.authorization import EVERYONE, Access
from lib.auth.secret import digest
from lib.auth.tokens import MOST_TOKENS, TOKEN_PREFIX
from lib.config.clusters import ClusterEntry
from lib.config.offerings import Offerings
from lib.config.settings import Group, Provider, Rule
from lib.errors import NotFound, Refused
from lib.model import (
    ClusterId,
    LaunchRequest,
    Resources,
    RunId,
    RunState,
    SceneId,
    Session,
    SessionId,
    SessionState,
    TokenScope,
    Tunnel,
    User,
    UserId,
)
from lib.portal.facade import Portal
from lib.results.folder import ResultFolder
from lib.scenes.local_catalog import LocalCatalog
from lib.store import Store
from lib.store.changes import RunChange, SessionChange
from tests.fakes.stores import new_store
from tests.fakes.things import a_run, a_session, new_id
from tests.pages.sample_portal import FIRE, SHIPS, FakeReconciler

SCENE, SECRET_SCENE = SceneId("LC08_A"), SceneId("FS2_A")
CLAIMS: dict[str, dict[str, Any]] = {
    "alice": {"groups": ["forest"]},
    "mate": {"groups": ["forest"]},
    "bob": {"groups": ["coast"]},
    "lee": {"leads": ["forest"]},
    "kim": {"leads": ["coast"]},
    "ada": {"groups": ["admins"]},
    "zoe": {},
}


def membership(*without: str) -> Membership:
    def rule(claim: str, value: str) -> tuple[Rule, ...]:
        return (Rule("test", claim, value),)

    groups = [
        Group(name, name.title(), rule("groups", name), rule("leads", name))
        for name in ("forest", "coast")
        if name not in without
    ]
    provider = Provider("test", "Test", "https://id.test.example", "portal")
    return Membership([provider], groups, rule("groups", "admins"))


def _id_of(name: str) -> UserId:
    return UserId(f"u-{name}")


def _everybody_comes(store: Store) -> None:
    for name, claims in CLAIMS.items():
        store.people.came(_id_of(name), name=name, provider="test", subject=name, claims=claims)


class World:
    """Whoever speaks has just signed in. `landsat8` is for everybody, `formosat` for forest."""

    def __init__(self, folder: Path) -> None:
        self.store = new_store(folder / "portal.sqlite", _everybody_comes)
        #: So much later is it for what sign-ins are remembered by, seconds.
        self.later_s = 0.0
        self.auth = Auth(self.store, membership(), clock=lambda: time.monotonic() + self.later_s)
        self.ids = {name: _id_of(name) for name in CLAIMS}
        clusters = {
            "here": (EVERYONE,), "forest": ("forest",), "closed": (), "gone": ("dissolved",),
        }  # fmt: skip
        self.offerings = Offerings(
            {m.id: m for m in (FIRE, SHIPS)},
            {
                ClusterId(name): ClusterEntry(ClusterId(name), name.title(), "", False, groups)
                for name, groups in clusters.items()
            },
            {"landsat8": (EVERYONE,), "formosat": ("forest",)},
        )
        #: A cluster that is not in it needs none.
        self.tunnels: dict[str, Tunnel] = {}
        self.access = Access(
            self.auth, self.offerings, self.store.audit, lambda entry: self.tunnels.get(entry.id)
        )
        self.reconciler = FakeReconciler(folder)
        self.catalog = LocalCatalog(folder / "scenes")
        self.portal = Portal(
            self.store,
            self.auth,
            self.access,
            self.offerings,
            self.catalog,
            ResultFolder(folder / "results"),
            cast(Any, self.reconciler),
        )

    def speak(self, name: str) -> User:
        """Somebody with a fresh sign-in, or with a fresh token (NAME/SCOPE)."""
        name, _, scope = name.partition("/")
        account = self.store.people.account(self.ids[name])
        if scope:
            user = self.auth.membership.user(account)
            for old in self.auth.tokens.of(user.id)[MOST_TOKENS - 1 :]:  # spoken by long ago
                self.auth.tokens.withdraw(user.id, old.id, by=user)
            token = self.auth.tokens.new("t", user=user, scopes=[TokenScope(scope)])
            found = self.auth.tokens.user_of(token)
            assert found is not None
            assert found.scopes == {scope}
            return found
        secret = self.auth.logins.begin(account.id, "test", "", "")
        login = self.auth.logins.of_secret(secret)
        assert login is not None
        return login.user

    def powerless(self, name: str = "alice") -> tuple[User, str]:
        """Somebody who speaks by a token that is for nothing, from an address; and the token."""
        token = f"{TOKEN_PREFIX}{new_id()}"
        self.store.people.add_token(
            new_id(), digest(token), self.ids[name], "t", time.time() + 60, scopes=frozenset()
        )
        user = self.auth.tokens.user_of(token, "192.0.2.7")
        assert user is not None
        return user, token

    def refusals(self, user: User) -> list[tuple[str, str, str]]:
        """Action, object and result of what was lately refused to this sign-in or token, newest
        first; each line says who it was and from where."""
        lines = [e for e in self.store.audit.latest(30) if e.via == user.via]
        refused = [e for e in lines if e.result in (NotFound.code, Refused.code)]
        assert {(e.user, e.client) for e in refused} <= {(user.id, user.client)}
        return [(e.action, e.object, e.result) for e in refused]

    def ended(self, how: str) -> User:
        """Somebody who was signed in, and is not any more."""
        people = self.store.people
        if how == "withdrawn":
            user = self.speak("bob/read")
            people.revoke_token(user.via.partition(":")[2])
            return user
        if how == "old token":
            scopes = frozenset(TokenScope)
            people.add_token(
                "old", "hash-of-old", self.ids["bob"], "t", time.time() - 1, scopes=scopes
            )
            return User(self.ids["bob"], "Bob", scopes=scopes, via="token:old")
        if how == "of somebody else":
            return dataclasses.replace(self.speak("bob/read"), id=self.ids["alice"])
        if how == "stranger":
            return User(UserId("u-alice"), "Alice", via="login:made-up")
        user = self.speak("alice")
        login = user.via.partition(":")[2]
        if how == "signed out":
            people.revoke_login(login)
        elif how == "too old":
            people.add_login("old", "hash-of-old", user.id, time.time() - 1)
            user = dataclasses.replace(user, via="login:old")
        elif how == "idle":
            self.auth.logins.idle_s = -1.0
        elif how == "blocked":
            people.block(user.id, blocked=True)
        elif how == "left":
            self.auth.membership = Membership()
        return user

    def session(self, state: SessionState = SessionState.QUEUED) -> Session:
        """A fresh piece of Alice's work."""
        owner = User(self.ids["alice"], "alice")
        session_id = SessionId(new_id())
        run = a_run(SCENE, owner=owner, session=session_id)
        self.store.work.add_session(a_session(run, session_id), run, [self.catalog.get(SCENE)])
        if state is not SessionState.NEW:
            self.store.work.update_session(session_id, SessionChange(state=state))
        return self.store.work.session(session_id)

    def ended_session(self) -> Session:
        session = self.session(SessionState.ENDED)
        self.store.work.update_session(session.id, SessionChange(files_until=time.time() + 3600))
        self.store.work.update_run(session.run, RunChange(state=RunState.CANCELLED))
        return session

    def run(self) -> RunId:
        run = a_run(SCENE, owner=User(self.ids["alice"], "alice"))
        self.store.work.add_run(run, [self.catalog.get(SCENE)])
        return run.id

    def request(self, cluster: str = "here", *scenes: str) -> LaunchRequest:
        chosen = tuple(SceneId(s) for s in scenes or (SCENE,))
        return LaunchRequest(chosen, FIRE.id, {}, ClusterId(cluster), Resources("small", 3600))
