"""The one authorisation function: who may do what to what.

Every route, page, notebook, WebSocket, tile and download asks `Access.require`, at the
front door for being here at all and in `lib.portal` for each thing. What no rule allows
is refused. `docs/security.md` shows the table; `tests/security/test_access.py` holds
every route and every method of the Portal against it.

    owner          everything with what is theirs
    group lead     see and stop the work of the members of the groups that they lead
    administrator  see and stop everybody's work, people, announcements, audit log
    anybody else   does not even learn that it exists

Nobody but its owner opens a notebook, reads results or logs: an administrator neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from lib.errors import NotFound, Refused, SignInEnded
from lib.model import Run, Scene, Session, StrEnum, TokenScope, User, UserId

if TYPE_CHECKING:
    from lib.auth import Auth
    from lib.catalogs import Catalogs
    from lib.clusters import ClusterEntry

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
    LEAD = "see the work of one's groups"
    ADMINISTER = "look after the portal"


#: What an access token of that scope may do. Signing in, opening notebooks and
#: administering are for people with a browser.
_BY_TOKEN = {
    TokenScope.READ: {Act.ENTER, Act.SEARCH, Act.READ_SCENE, Act.SEE, Act.READ},
    TokenScope.LAUNCH: {
        Act.ENTER, Act.SEARCH, Act.READ_SCENE, Act.SEE, Act.LAUNCH, Act.STOP,
    },
}  # fmt: skip


class Access:
    """Stateless but for what it asks; safe to call from any thread."""

    def __init__(self, auth: Auth, catalogs: Catalogs) -> None:
        self._auth = auth
        self._catalogs = catalogs

    def require(
        self, user: User, act: Act, thing: Session | Run | Scene | ClusterEntry | None = None
    ) -> User:
        """Who asks, as they are at this moment, if they may.

        Raises:
            SignInEnded: they are no longer signed in.
            NotFound: they may not know of this thing.
            Refused: they may know of it, but not do this.
        """
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

    def may(
        self, user: User, act: Act, thing: Session | Run | Scene | ClusterEntry | None = None
    ) -> bool:
        """Whether `require` would let them. Raises SignInEnded."""
        try:
            self.require(user, act, thing)
        except SignInEnded:
            raise
        except (NotFound, Refused):
            return False
        return True

    def collections(self, user: User) -> tuple[str, ...]:
        """Collections whose scenes this user may read."""
        return tuple(
            collection
            for collection, readers in self._catalogs.readers.items()
            if _among(user, readers)
        )

    # --- the rules, all of one shape ------------------------------------------------------------

    def _always(self, user: User, thing: object) -> None:
        """Whoever is signed in may."""

    def _scene(self, user: User, thing: object) -> None:
        assert isinstance(thing, Scene)  # noqa: S101 - a fault of ours, not of the asker
        if not _among(user, self._catalogs.readers.get(thing.collection, ())):
            raise NotFound(f"There is no scene {thing.id!r:.130} here.")

    def _cluster(self, user: User, thing: object) -> None:
        groups: tuple[str, ...] = getattr(thing, "groups")  # noqa: B009 - any ClusterEntry
        if _among(user, groups):
            return
        title: str = getattr(thing, "title", "This cluster")
        if not groups:
            raise Refused(f"{title} is closed: no group may start work there.")
        known = self._auth.membership.groups
        if not any(group in known for group in groups):
            raise Refused(
                f"{title} is for groups that no longer exist ({', '.join(groups)}). "
                "Ask the administrator of this portal."
            )
        names = ", ".join(known[group] for group in groups if group in known)
        raise Refused(f"{title} is for these groups: {names}. You are in none of them.")

    def _owner(self, user: User, thing: object) -> None:
        """The owner alone; whoever may see it is told so."""
        if _owner_of(thing) == user.id:
            return
        self._see(user, thing)
        raise Refused("Only its owner may open this or read its results.")

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
    Act.LEAD: Access._lead,
    Act.ADMINISTER: Access._administrator,
}
