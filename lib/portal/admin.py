"""What leads of groups and administrators may see and do."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lib.auth.authorization import Access, Act
from lib.errors import InvalidInput
from lib.model import Announcement, AnnouncementKind, Person, Run, Session, UserId
from lib.portal.reads import Reads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.auth import Auth
    from lib.model import User
    from lib.store import Store
    from lib.store.audit import AuditEntry, AuditQuery

LONGEST_TEXT = 500
LONGEST_SHOWN_S = 90 * 86400
#: So many people of one name are searched for.
_MOST_NAMED = 200
#: Of so many groups of leads what was read is kept.
_WORK_READ = 20


class Administration:
    """`Portal.administration`."""

    def __init__(self, store: Store, auth: Auth, access: Access) -> None:
        self._store = store
        self._auth = auth
        self._access = access
        version = store.stamps.version
        self._told = Reads[tuple[Announcement, ...]](version, 1)
        self._work_read = Reads[tuple[Session | Run, ...]](version, _WORK_READ)
        self._names_read = Reads[Mapping[UserId, str]](version, 1)

    # --- work ---------------------------------------------------------------

    def work(self, user: User, *, ended: int = 50) -> tuple[Session | Run, ...]:
        """Notebooks, and runs outside of one, that this user looks after: of everybody
        for an administrator, of the members of their groups for a lead. Newest first:
        all that live, and the last `ended` of what has ended."""
        now = self._access.require(user, Act.LEAD)
        owners = None if now.administrator else self._members(now.leads)

        def read() -> tuple[Session | Run, ...]:
            found: list[Session | Run] = [
                *self._store.work.sessions_of_all(owners, ended=ended),
                *self._store.work.runs_of_all(owners, ended=ended),
            ]
            return tuple(sorted(found, key=lambda work: work.created_at, reverse=True))

        return self._work_read.of((owners, ended), read)

    def names(self, user: User) -> dict[UserId, str]:
        """The names of those whose work this user may see."""
        now = self._access.require(user, Act.LEAD)
        names = self._names_read.of(None, lambda: self._auth.names(anew=True))
        known = None if now.administrator else self._members(now.leads)
        return {who: name for who, name in names.items() if known is None or who in known}

    def _members(self, groups: frozenset[str]) -> frozenset[UserId]:
        membership = self._auth.membership
        return frozenset(
            account.id
            for account in self._store.people.accounts()
            if groups & membership.user(account).groups
        )

    # --- people -------------------------------------------------------------

    def people(self, user: User) -> tuple[Person, ...]:
        """Everybody the portal knows, by name."""
        self._access.require(user, Act.ADMINISTER)
        return people_of(self._store, self._auth)

    def groups(self, user: User) -> dict[str, str]:
        """Title of every group, by id."""
        self._access.require(user, Act.ADMINISTER)
        return dict(self._auth.membership.groups)

    def sign_out_everywhere(self, user: User, who: UserId) -> int:
        """End all sign-ins of somebody; how many there were. Raises NotFound."""
        with self._access.attempted(user, "sign-out-everywhere", who) as act:
            now = act.require(Act.ADMINISTER)
            self._store.people.account(who)
            return self._auth.logins.sign_out_everywhere(who, by=now)

    def block(self, user: User, who: UserId, *, blocked: bool) -> None:
        """Take somebody's access away at once, or give it back; their work goes on.

        Raises:
            NotFound: there is no such person.
            Refused: it is the user themself, or the owner of the portal.
        """
        with self._access.attempted(user, "block" if blocked else "unblock", who) as act:
            now = act.require(Act.ADMINISTER)
            self._auth.block(who, blocked=blocked, by=now)

    # --- announcements ----------------------------------------------------------

    def announcements(self, user: User) -> tuple[Announcement, ...]:
        """What everybody is told at the moment; for everybody.

        Never older than a stamp that was asked for before: a page that has drawn what is older
        would not be drawn again (`lib.portal.changes`).
        """
        self._access.require(user, Act.ENTER)
        told = self._told.of(None, self._store.announcements.current)
        now = datetime.now(UTC)
        return tuple(one for one in told if one.until > now)

    def announce(self, user: User, text: str, kind: AnnouncementKind, lasts_s: float) -> int:
        """Tell everybody; its id.

        Raises:
            InvalidInput: no text, too long a text, or too long a time.
        """
        with self._access.attempted(user, "announce") as act:
            now = act.require(Act.ADMINISTER)
            return announce_as(self._store, now, text, kind, lasts_s)

    def end_announcement(self, user: User, number: int) -> None:
        """Show it no more. Raises NotFound."""
        with self._access.attempted(user, "announcement-ended", str(number)) as act:
            now = act.require(Act.ADMINISTER)
            end_announcement_as(self._store, now, number)

    # --- the audit log ------------------------------------------------------------

    def audit(self, user: User, query: AuditQuery, *, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Lines that match, newest first."""
        self._access.require(user, Act.ADMINISTER)
        named = by_names(query, self._auth.names(anew=True))
        return self._store.audit.search(named, limit=limit)

    def audit_actions(self, user: User) -> tuple[str, ...]:
        """What can be looked for."""
        self._access.require(user, Act.ADMINISTER)
        return self._store.audit.actions()

    def audit_export(self, user: User, query: AuditQuery) -> Iterator[bytes]:
        """All lines that match as JSON lines (UTF-8), oldest first. The export is logged."""
        now = self._access.require(user, Act.ADMINISTER)
        _write(self._store, now, "audit-export", "", detail=query.text)
        names = self._auth.names(anew=True)
        lines = self._store.audit.export(by_names(query, names))
        return (json_line(entry, names) for entry in lines)


def announce_as(store: Store, user: User, text: str, kind: AnnouncementKind, lasts_s: float) -> int:
    """`Administration.announce`, of somebody who may. Raises InvalidInput."""
    text = " ".join(text.split())
    if not text or len(text) > LONGEST_TEXT:
        raise InvalidInput(f"Write an announcement of at most {LONGEST_TEXT} characters.")
    if not 0 < lasts_s <= LONGEST_SHOWN_S:
        raise InvalidInput("An announcement is shown for at most 90 days.")
    number = store.announcements.add(text, kind, time.time() + lasts_s)
    _write(store, user, "announce", str(number), detail=text)
    return number


def end_announcement_as(store: Store, user: User, number: int) -> None:
    """`Administration.end_announcement`, of somebody who may. Raises NotFound."""
    store.announcements.end(number)
    _write(store, user, "announcement-ended", str(number))


def _write(store: Store, user: User, action: str, thing: str, *, detail: str = "") -> None:
    store.audit.write(user.id, action, thing, detail=detail, client=user.client, via=user.via)


def people_of(store: Store, auth: Auth) -> tuple[Person, ...]:
    """Everybody, by name, with what the settings of the moment make of them."""
    counts = store.people.login_counts(idle_s=auth.logins.idle_s)
    names = auth.names(anew=True)
    return tuple(
        Person(
            replace(auth.membership.user(account), name=names.get(account.id, account.name)),
            account.provider,
            str(account.claims.get("email", "")),
            account.created_at,
            account.seen_at,
            account.blocked,
            counts.get(account.id, 0),
        )
        for account in store.people.accounts()
    )


def by_names(query: AuditQuery, names: Mapping[UserId, str]) -> AuditQuery:
    """The same question; what is searched for may be a part of a name too."""
    text = query.text.casefold()
    if not text:
        return query
    named = sorted(who for who, name in names.items() if text in name.casefold())
    return replace(query, named=tuple(named[:_MOST_NAMED]))


def json_line(entry: AuditEntry, names: Mapping[UserId, str]) -> bytes:
    """One line of the export; times as RFC 3339 in UTC."""
    line = {
        "id": entry.id,
        "time": entry.time.isoformat().replace("+00:00", "Z"),
        "user": entry.user,
        "name": names.get(UserId(entry.user), ""),
        "action": entry.action,
        "object": entry.object,
        "result": entry.result,
        "detail": entry.detail,
        "client": entry.client,
        "via": entry.via,
    }
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
