"""The filter of the audit log: which lines are shown. All of it is in the address.

The same fields make the address of the download, so that both hold the same lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from urllib.parse import urlencode

from lib.portal.facade import AuditQuery

LONGEST = 200


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Empty fields do not restrict; both days are included whole. `before`: see AuditQuery."""

    text: str = ""
    user: str = ""
    action: str = ""
    refused: bool = False
    since: date | None = None
    until: date | None = None
    before: int | None = None

    def query(self) -> AuditQuery:
        """What the portal is asked."""
        since, until = _start(self.since), _start(self.until)
        return AuditQuery(
            text=self.text,
            user=self.user,
            action=self.action,
            refused=self.refused,
            since=since,
            until=None if until is None else until + timedelta(days=1).total_seconds(),
            before=self.before,
        )

    def download(self) -> str:
        """Where the browser gets all that match, of whatever age."""
        pairs = {
            "text": self.text,
            "user": self.user,
            "action": self.action,
            "refused": "1" if self.refused else "",
            "since": self.since.isoformat() if self.since else "",
            "until": self.until.isoformat() if self.until else "",
        }
        kept = {name: value for name, value in pairs.items() if value}
        return "/api/audit.jsonl" + (f"?{urlencode(kept)}" if kept else "")

    def address(self) -> dict[str, str]:
        """As `parse` reads it; empty where nothing was chosen."""
        return {
            "text": self.text,
            "person": self.user,
            "action": self.action,
            "refused": "1" if self.refused else "",
            "from": self.since.isoformat() if self.since else "",
            "to": self.until.isoformat() if self.until else "",
            "before": str(self.before) if self.before else "",
        }


def parse(address: Mapping[str, str]) -> AuditFilter:
    """Read an address; what cannot be read restricts nothing."""
    before = address.get("before", "")
    return AuditFilter(
        text=address.get("text", "")[:LONGEST],
        user=address.get("person", "")[:LONGEST],
        action=address.get("action", "")[:LONGEST],
        refused=address.get("refused", "") == "1",
        since=_day(address.get("from", "")),
        until=_day(address.get("to", "")),
        before=int(before) if before.isascii() and before.isdigit() and len(before) < 16 else None,
    )


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _start(day: date | None) -> float | None:
    return None if day is None else datetime.combine(day, time.min, timezone.utc).timestamp()
