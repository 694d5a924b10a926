"""Authorization: the one function that says who may do what to what, and its audit lines.

Every route, page, notebook, WebSocket, tile and download asks `Access.require`:
`lib.web.auth_middleware` for being here at all, `lib.portal.facade` for each thing. What no
rule allows is refused, and whoever is refused has asked in writing: one line in the audit log.
`docs/security.md` shows the table; `tests/security/test_authorization.py` holds every route and
every method of the Portal against it.

    owner          everything with what is theirs
    group lead     see and stop the work of the members of the groups that they lead
    administrator  see and stop everybody's work, people, announcements, audit log
    anybody else   does not even learn that it exists

Nobody but its owner opens a notebook, reads results or logs: an administrator neither.
Work starts on a cluster only for whom its file names *and* to whom its tunnel belongs; what
runs already is not asked about again, so it goes on when the tunnel changes hands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, cast

from lib.errors import NotFound, Refused, SceneBridgeError, SignInEnded
from lib.model import (
    Run,
    Scene,
    Session,
    StrEnum,
    TokenScope,
    Tunnel,
    TunnelState,
    User,
    UserId,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.auth import Auth
    from lib.config.clusters import ClusterEntry
    from lib.config.offerings import Offerings
    from lib.store.audit import Audit

#: What somebody may want to do something to; None where the act says it all.
Thing: TypeAlias = "Session | Run | Scene | ClusterEntry | None"

#: In the readers of a collection and the groups of a cluster.
EVERYONE = "everyone"


class Act(StrEnum):
    """What somebody wants to do."""

    ENTER = "be in the portal"
    ACCOUNT = "see and end one's own sign-ins and tokens"
    SEARCH = "see what can be chosen"
    READ_SCENE = "look at a scene"
    LAUNCH = "start work on a cluster"
    SEE = "see that a piece of work is there, and how it goes"
    READ = "read results and logs"
    OPEN = "open a notebook"
    STOP = "stop a piece of work"
    EDIT = "name, describe or delete a piece of work"
    LEAD = "see the work of one's groups"
    ADMINISTER = "look after the portal"


#: `Access.require` of somebody: outside of any act of `Access.audited`, or as part of one.
Ask: TypeAlias = "Callable[[Act, Thing], User]"

#: What an access token of that scope may do. Signing in, opening notebooks and
#: administering are for people with a browser.
_BY_TOKEN = {
    TokenScope.READ: {Act.ENTER, Act.SEARCH, Act.READ_SCENE, Act.SEE, Act.READ},
    TokenScope.LAUNCH: {
        Act.ENTER, Act.SEARCH, Act.READ_SCENE, Act.SEE, Act.LAUNCH, Act.STOP,
    },
}  # fmt: skip


class Access:
    """Stateless but for what it asks and writes; safe to call from any thread.

    Whatever is done, or handed out, is asked for with `require`. `may` and `why_not` write
    nothing: they are for what is offered or greyed out, and nothing is done on their word.

    Args:
        audit: where refusals and the acts of `audited` are written.
        tunnels: the tunnel of a cluster, None for one that needs none; quick, it is asked
            at each question about a cluster. Without it no cluster but this computer has one.
    """

    def __init__(
        self,
        auth: Auth,
        offerings: Offerings,
        audit: Audit,
        tunnels: Callable[[ClusterEntry], Tunnel | None] | None = None,
    ) -> None:
        self._auth = auth
        self._offerings = offerings
        self._audit = audit
        self.tunnel = tunnels or _no_tunnel

    def require(self, user: User, act: Act, thing: Thing = None) -> User:
        """Who asks, as they are at this moment, if they may.

        A refusal is one line in the audit log, `attempt-` and the act. That a sign-in has
        ended is none: the end itself is written, and open pages go on asking for a moment.

        Raises:
            SignInEnded: they are no longer signed in.
            NotFound: they may not know of this thing.
            Refused: they may know of it, but not do this.
        """
        try:
            return self._decide(user, act, thing)
        except SignInEnded:
            raise
        except (NotFound, Refused) as exc:
            tried = f"attempt-{act.name.lower().replace('_', '-')}"
            self._write(user, tried, "" if thing is None else thing.id, exc)
            raise

    @contextmanager
    def audited(self, user: User, action: str, object_id: str) -> Iterator[AuditedAct]:
        """One line for what is done inside, whatever comes of it; it asks by what it gets."""
        act = AuditedAct(self, user, action, object_id)
        try:
            yield act
        except SceneBridgeError as exc:
            act.failed(exc)
            raise
        self._write(user, action, act.object, detail=act.detail)

    @contextmanager
    def attempted(self, user: User, action: str, object_id: str = "") -> Iterator[AuditedAct]:
        """As `audited`, for what writes its success by itself: one line if it is refused."""
        act = AuditedAct(self, user, action, object_id)
        try:
            yield act
        except (NotFound, Refused) as exc:
            act.failed(exc)
            raise

    def _write(
        self,
        user: User,
        action: str,
        thing: str,
        failure: SceneBridgeError | None = None,
        *,
        detail: str = "",
    ) -> None:
        self._audit.write(
            user.id,
            action,
            thing,
            result="ok" if failure is None else failure.code,
            detail=detail if failure is None else failure.message,
            client=user.client,
            via=user.via,
        )

    def _decide(self, user: User, act: Act, thing: Thing) -> User:
        now = self._auth.again(user)
        if now.scopes is not None and not any(act in _BY_TOKEN[s] for s in now.scopes):
            raise Refused(
                f"Your access token does not allow this ({act}). "
                "Make one that does on the Account page, or sign in with a browser."
            )
        rule = _RULES.get(act)
        if rule is None:
            raise Refused("This is not allowed.")
        rule(self, now, thing)
        return now

    def may(self, user: User, act: Act, thing: Thing = None) -> bool:
        """Whether `require` would let them, for showing alone. Raises SignInEnded."""
        return not self.why_not(user, act, thing)

    def why_not(self, user: User, act: Act, thing: Thing = None) -> str:
        """What `require` would refuse with, for showing alone; "" where they may.

        Raises SignInEnded."""
        try:
            self._decide(user, act, thing)
        except SignInEnded:
            raise
        except (NotFound, Refused) as exc:
            return exc.message
        return ""

    @property
    def one_person(self) -> bool:
        """Whether nobody but the portal's owner can come."""
        return self._auth.membership.one_person

    def in_its_groups(self, user: User, cluster: ClusterEntry) -> bool:
        """Whether the cluster's file names them, whatever its tunnel; for showing alone."""
        return _among(self._auth.again(user), cluster.groups)

    def belongs_to(self, tunnel: Tunnel) -> str:
        """Whose a tunnel is, as people know them; "" where it is nobody's."""
        if tunnel.person is not None:
            return self._auth.name_of(tunnel.person)
        known = self._auth.membership.groups
        return f"the group {known.get(tunnel.group, tunnel.group)}" if tunnel.group else ""

    def collections(self, user: User) -> tuple[str, ...]:
        """Collections whose scenes this user may read."""
        return tuple(
            collection
            for collection, readers in self._offerings.readers.items()
            if _among(user, readers)
        )

    # --- the rules, all of one shape ------------------------------------------------------------

    def _always(self, user: User, thing: object) -> None:
        """Whoever is signed in may."""

    def _scene(self, user: User, thing: object) -> None:
        assert isinstance(thing, Scene)  # noqa: S101 - a fault of ours, not of the asker
        if not _among(user, self._offerings.readers.get(thing.collection, ())):
            raise NotFound(f"There is no scene {thing.id!r:.130} here.")

    def _cluster(self, user: User, thing: object) -> None:
        """Both: the cluster's file names them, and its tunnel is theirs."""
        entry = cast("ClusterEntry", thing)
        self._groups_of_cluster(user, entry.title, entry.groups)
        tunnel = self.tunnel(entry)
        if tunnel is not None:
            self._tunnel(user, entry.title, tunnel)

    def _groups_of_cluster(self, user: User, title: str, groups: tuple[str, ...]) -> None:
        if _among(user, groups):
            return
        if not groups:
            raise Refused(f"{title} is closed: no group may start work there.")
        known = self._auth.membership.groups
        if self.one_person:
            raise Refused(
                f"{title} is for groups ({', '.join(groups)}), and this portal has none: "
                'groups = ["everyone"] in the file of the cluster lets its people in.'
            )
        if not any(group in known for group in groups):
            raise Refused(
                f"{title} is for groups that this portal does not have ({', '.join(groups)}). "
                "Ask its administrator."
            )
        names = ", ".join(known[group] for group in groups if group in known)
        raise Refused(f"{title} is for these groups: {names}. You are in none of them.")

    def _tunnel(self, user: User, title: str, tunnel: Tunnel) -> None:
        """A closed tunnel is still somebody's: their work waits until it is opened again."""
        if tunnel.state is TunnelState.NONE:
            raise Refused(
                f"No tunnel to {title} has been opened yet, so nothing can be started there. "
                "An administrator of the portal's computer can open one."
            )
        if tunnel.person is not None:
            if tunnel.person != user.id:
                raise Refused(
                    f"The tunnel to {title} belongs to {self.belongs_to(tunnel)}, "
                    "who alone starts work through it."
                )
            return
        if not tunnel.group:
            raise Refused(
                f"The tunnel to {title} belongs to nobody, so nothing can be started through it. "
                f"Ask {tunnel.account} to open it for a group or a person."
            )
        if tunnel.group not in self._auth.membership.groups:
            raise Refused(
                f"The tunnel to {title} belongs to the group {tunnel.group}, which this portal "
                f"does not have. Ask {tunnel.account} to open it for another group or a person."
            )
        if tunnel.group not in user.groups:
            raise Refused(
                f"The tunnel to {title} belongs to {self.belongs_to(tunnel)}. You are not in it."
            )

    def _owner(self, user: User, thing: object) -> None:
        """The owner alone; whoever may see it is told so."""
        if _owner_of(thing) == user.id:
            return
        self._see(user, thing)
        raise Refused("Only its owner may open or change this, or read its results.")

    def _see(self, user: User, thing: object) -> None:
        owner = _owner_of(thing)
        if owner == user.id or user.administrator:
            return
        if user.leads and user.leads & self._auth.groups_of(owner):
            return
        raise NotFound(
            "There is no such notebook session."
            if isinstance(thing, Session)
            else "There is no such run."
        )

    def _lead(self, user: User, _thing: object) -> None:
        if not user.administrator and not user.leads:
            raise Refused("This page is for leads of groups and administrators.")

    def _administrator(self, user: User, _thing: object) -> None:
        if not user.administrator:
            raise Refused("This is for administrators of the portal.")


class AuditedAct:
    """An act that has a name of its own in the audit log, while it is done.

    `object` is what its line names: what it was asked for, until there is something new.
    `detail` is what is said of it if it is done.
    """

    def __init__(self, access: Access, user: User, action: str, object_id: str) -> None:
        self._access = access
        self._user = user
        self._action = action
        self.object = object_id
        self.detail = ""
        self._refused = False

    def require(self, act: Act, thing: Thing = None) -> User:
        """As `Access.require`; the line of a refusal is this act's."""
        try:
            return self._access._decide(self._user, act, thing)
        except (NotFound, Refused) as exc:
            self.failed(exc)
            raise

    def failed(self, exc: SceneBridgeError) -> None:
        """Write why nothing came of it; of what follows from that, nothing more."""
        if not self._refused:
            self._refused = True
            self._access._write(self._user, self._action, self.object, exc)


def _no_tunnel(entry: ClusterEntry) -> Tunnel | None:
    return None if entry.embedded else Tunnel(entry.id, TunnelState.NONE)


def _owner_of(thing: object) -> UserId:
    assert isinstance(thing, (Session, Run))  # noqa: S101 - a fault of ours
    return thing.owner


def _among(user: User, allowed: Iterable[str]) -> bool:
    allowed = tuple(allowed)
    return EVERYONE in allowed or not user.groups.isdisjoint(allowed)


_Rule = Callable[[Access, User, object], None]
_RULES: dict[Act, _Rule] = {
    Act.ENTER: Access._always,
    Act.ACCOUNT: Access._always,
    Act.SEARCH: Access._always,
    Act.READ_SCENE: Access._scene,
    Act.LAUNCH: Access._cluster,
    Act.SEE: Access._see,
    Act.READ: Access._owner,
    Act.OPEN: Access._owner,
    Act.STOP: Access._see,
    Act.EDIT: Access._owner,
    Act.LEAD: Access._lead,
    Act.ADMINISTER: Access._administrator,
}
