"""Live clocks: times that go on in the browser, so that nothing is drawn again for them."""

from __future__ import annotations

from ui import components
from ui.text import esc, now
from ui.work_status import Clock

_clocks = components.load("clocks")


def html(clock: Clock) -> str:
    """A clock as HTML, as it stands now; it moves on pages that `run` it."""
    ends = "".join(
        f' data-{name}="{time.timestamp():.3f}"'
        for name, time in (("since", clock.since), ("until", clock.until))
        if time is not None
    )
    moves = (clock.since is None) != (clock.until is None)
    mark = f' data-sb-clock="{esc(clock.label)}"{ends}' if moves else ""
    return f'<span class="clock"{mark}>{esc(clock.text(now()))}</span>'


def run() -> None:
    """Move the clocks of this page, by the portal's time and not the browser's."""
    _clocks(key="clocks", data={"now": now().timestamp()})
