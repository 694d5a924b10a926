"""What changes by itself is drawn again when it has changed, and not before.

A fragment draws `with following(...)`: the page remembers the stamp with which it was drawn
(`lib.portal.changes`), and the browser asks for the fragment when the portal's stream says
another one, at most twice a second and only while somebody can see the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lib.errors import SceneBridgeError
from lib.model import User
from lib.portal.facade import Portal
from ui import components
from ui.text import now

_live = components.load("live")
#: What a page says of times (how long ago, until when) is never older than this.
AGAIN_S = 30.0


@dataclass
class Following:
    """What a fragment may say of itself while it draws.

    Args:
        tells_times: it says how long ago or until when something is, in words that grow old.
        again_s: it has more to show after so long; 0: no more until something changes.
    """

    tells_times: bool
    again_s: float = 0.0


@contextmanager
def following(
    portal: Portal, user: User, topic: str, *, tells_times: bool = True, part: str = ""
) -> Iterator[Following]:
    """Around what a fragment draws of one topic.

    Args:
        part: tells fragments of one page apart that follow the same topic.
    """
    it = Following(tells_times)
    try:
        seen = portal.changes.stamp(user, topic)  # before what is drawn is read
    except SceneBridgeError:
        seen = ""  # the page itself says so, and looks again as soon as there is something
    yield it
    data = {
        "topic": topic,
        "seen": seen,
        "again": it.again_s or (AGAIN_S if it.tells_times else 0),
        "drawn": now().timestamp(),
    }
    key = f"live-{topic.replace(':', '-')}{part and f'-{part}'}"
    _live(key=key, data=data, on_changed_change=_drawn)


def _drawn() -> None:
    """The run of the script that the browser asked for is all that there is to do."""
