"""Only those to whom a tunnel belongs start work through it; what runs goes on for its owner."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.auth import OWNER, Auth, Membership
from lib.auth.authorization import Access, Act
from lib.config.clusters import ClusterEntry
from lib.errors import NotFound, Refused
from lib.model import ClusterId, SessionState, Tunnel, TunnelState, UserId
from lib.portal.tunnels import OuterTunnels
from tests.fakes.people import SCENE, World, membership
from tests.fakes.tunnels import write_record
from tests.pages.sample_portal import plant_scene

HERE = ClusterId("here")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    plant_scene(folder, SCENE)
    return folder


@pytest.fixture
def world(tmp_path: Path, planted: Path) -> Iterator[World]:
    (tmp_path / "scenes").symlink_to(planted / "scenes")
    it = World(tmp_path)
    yield it
    it.store.close()


def tunnel(cluster: str = "here", **more: Any) -> Tunnel:
    return Tunnel(ClusterId(cluster), TunnelState.OPEN, account="ada", **more)


def launches(world: World) -> list[Callable[..., Any]]:
    portal = world.portal
    return [portal.check_launch, portal.open_notebook, portal.start_run]


def refuse(world: World, who: str, cluster: str, says: str) -> None:
    for call in launches(world):
        with pytest.raises(Refused, match=says):
            call(world.speak(who), world.request(cluster))
    assert cluster not in {c.id for c in world.portal.clusters(world.speak(who))}
    seen = next(c for c in world.portal.all_clusters(world.speak(who)) if c.id == cluster)
    with pytest.raises(Refused, match=says):
        raise Refused(seen.refused)


def allow(world: World, who: str, cluster: str) -> None:
    for call in launches(world):
        call(world.speak(who), world.request(cluster))
    assert cluster in {c.id for c in world.portal.clusters(world.speak(who))}
    seen = next(c for c in world.portal.all_clusters(world.speak(who)) if c.id == cluster)
    assert seen.refused == ""


def test_a_group_s_tunnel_is_for_its_group(world: World) -> None:
    world.tunnels["here"] = tunnel(group="forest")
    for who in ("alice", "mate", "lee"):
        allow(world, who, "here")
    for who in ("bob", "kim", "zoe", "ada"):  # ada administers the portal, and opened it
        refuse(world, who, "here", "belongs to the group Forest. You are not in it")


def test_a_person_s_tunnel_is_for_that_person(world: World) -> None:
    world.tunnels["here"] = tunnel(person=world.ids["alice"])
    allow(world, "alice", "here")
    for who in ("mate", "lee", "bob", "ada"):
        refuse(world, who, "here", "belongs to alice, who alone starts work through it")


def test_a_person_counts_before_a_group(world: World) -> None:
    world.tunnels["here"] = tunnel(person=world.ids["bob"], group="forest")
    refuse(world, "alice", "here", "belongs to bob")
    allow(world, "bob", "here")


def test_the_cluster_s_file_is_asked_too(world: World) -> None:
    """The cluster is for forest; a tunnel for coast opens it to neither."""
    world.tunnels["forest"] = tunnel("forest", group="coast")
    refuse(world, "alice", "forest", "belongs to the group Coast")
    refuse(world, "bob", "forest", "for these groups: Forest")
    world.tunnels["forest"] = tunnel("forest", person=world.ids["bob"])
    refuse(world, "bob", "forest", "for these groups: Forest")
    world.tunnels["forest"] = tunnel("forest", group="forest")
    allow(world, "alice", "forest")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"group": "dissolved"}, "the group dissolved, which this portal does not have. Ask ada"),
        ({"group": "everyone"}, "the group everyone, which this portal does not have"),
        ({}, "belongs to nobody"),
        ({"state": TunnelState.NONE}, "No tunnel to Here has been opened yet"),
        ({"person": UserId("u-gone")}, "belongs to u-gone"),
        ({"person": UserId("")}, "who alone starts work"),
    ],
)
def test_a_tunnel_of_nobody_known_is_for_nobody(
    world: World, fields: dict[str, Any], says: str
) -> None:
    world.tunnels["here"] = dataclasses.replace(tunnel(), **fields)
    for who in ("alice", "ada"):
        refuse(world, who, "here", says)


def test_a_closed_tunnel_is_still_somebody_s(world: World) -> None:
    """What its group starts waits until it is opened again."""
    world.tunnels["here"] = dataclasses.replace(tunnel(group="forest"), state=TunnelState.CLOSED)
    allow(world, "alice", "here")
    refuse(world, "bob", "here", "the group Forest")


def test_a_tunnel_that_changes_hands_touches_nothing_that_runs(world: World) -> None:
    world.tunnels["here"] = tunnel(group="forest")
    session = world.session(SessionState.READY)
    ended = world.ended_session()
    world.tunnels["here"] = tunnel(group="coast")
    alice = world.speak("alice")
    assert world.portal.notebook(alice, session.id).id == session.id
    assert session.id in {s.id for s in world.portal.sessions(alice)}
    with pytest.raises(Refused, match="the group Coast"):
        world.portal.start_again(alice, ended.id)
    with pytest.raises(NotFound):  # and it gives its new owners nothing of the old ones
        world.portal.notebook(world.speak("bob"), session.id)
    world.portal.stop(alice, session.id)
    world.tunnels["here"] = tunnel(group="forest")
    assert world.portal.start_again(alice, ended.id).continued_from == ended.id


def test_a_group_that_the_settings_lose_is_refused_at_the_next_question(world: World) -> None:
    world.tunnels["here"] = tunnel(group="forest")
    alice = world.speak("alice")
    world.portal.check_launch(alice, world.request())
    world.auth.membership = membership("forest")
    with pytest.raises(Refused, match="does not have"):
        world.portal.check_launch(alice, world.request())


def test_accounts_and_login_nodes_are_for_those_who_may(world: World) -> None:
    world.tunnels["here"] = tunnel(group="forest", login_node="u1001@login.nchc.example")
    for who, sees in (("alice", True), ("ada", True), ("bob", False)):
        seen = next(c for c in world.portal.all_clusters(world.speak(who)) if c.id == "here")
        assert seen.tunnel is not None
        assert bool(seen.tunnel.login_node) is sees
        assert seen.belongs_to == "the group Forest"


def test_who_knows_of_no_tunnel_lets_nobody_through_one(world: World) -> None:
    """The rule without records: this computer needs no tunnel, every other cluster does."""
    access = Access(world.auth, world.offerings, world.store.audit)
    entry = ClusterEntry(HERE, "Here", "", True, ("everyone",))
    assert access.require(world.speak("bob"), Act.LAUNCH, entry)
    with pytest.raises(Refused, match="No tunnel"):
        access.require(world.speak("bob"), Act.LAUNCH, dataclasses.replace(entry, embedded=False))


def test_the_portal_of_one_person_takes_tunnels_of_that_person_alone(
    world: World, tmp_path: Path
) -> None:
    auth = Auth(world.store, Membership())
    tunnels = OuterTunnels(tmp_path / "tunnels")
    access = Access(auth, world.offerings, world.store.audit, tunnels.of)
    entry = world.offerings.cluster(HERE)
    for owner, says in (
        ({"group": "forest"}, "does not have. Ask ada to open it for another group or a person"),
        ({"person": "u-alice"}, "belongs to alice"),
        ({"person": OWNER.id}, ""),
    ):
        write_record(tmp_path / "tunnels", HERE, **owner)
        tunnels._known.clear()
        said = access.why_not(OWNER, Act.LAUNCH, entry)
        assert says in said
        assert bool(said) is bool(says)


def test_records_are_read_at_most_once_a_second(tmp_path: Path) -> None:
    now = 0.0
    tunnels = OuterTunnels(tmp_path, clock=lambda: now)
    entry = ClusterEntry(HERE, "Here", "", False, ())
    write_record(tmp_path, HERE, group="forest")
    assert _group(tunnels, entry) == "forest"
    write_record(tmp_path, HERE, group="coast")
    assert _group(tunnels, entry) == "forest"
    now += 1.01
    assert _group(tunnels, entry) == "coast"


def _group(tunnels: OuterTunnels, entry: ClusterEntry) -> str:
    found = tunnels.of(entry)
    assert found is not None
    return found.group
