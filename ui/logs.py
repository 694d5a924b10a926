"""Background fetch of logs: asking a cluster takes seconds, and no page waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import streamlit as st

from lib.errors import SceneBridgeError
from lib.portal.facade import LogText

REFRESH_S = 5.0
#: While a cluster is being asked.
_SOON_S = 0.5
_POOL = ThreadPoolExecutor(max_workers=4, thread_name_prefix="page-log")


@dataclass(slots=True)
class _Fetch:
    asked: Future[LogText]
    since: float
    live: bool
    last: LogText | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What can be shown of a log now; both empty while it is fetched for the first time.

    Args:
        again_s: there may be more to show after so long; 0: this is all.
    """

    log: LogText | None
    error: SceneBridgeError | None
    again_s: float = 0.0

    @property
    def says_something(self) -> bool:
        return self.log is not None and bool(self.log.text.strip())


def read(key: str, ask: Callable[[], LogText], *, live: bool) -> Shown:
    """The newest text of a log; asks again every few seconds while `live`, and once after that.

    Call it on every rerun; `ask` runs in another thread.
    """
    fetches: dict[str, _Fetch] = st.session_state.setdefault("log-fetches", {})
    fetch = fetches.get(key)
    if fetch is None:
        fetch = fetches[key] = _Fetch(_POOL.submit(ask), time.monotonic(), live)
    if not fetch.asked.done():
        return Shown(fetch.last, None, _SOON_S)
    error = fetch.asked.exception()
    if error is None:
        fetch.last = fetch.asked.result()
    elif not isinstance(error, SceneBridgeError):
        raise error
    due = time.monotonic() - fetch.since > REFRESH_S and (live or error is not None)
    if due or (fetch.live and not live):  # the last lines of a job come with its end
        fetch.asked, fetch.since, fetch.live = _POOL.submit(ask), time.monotonic(), live
        return Shown(fetch.last, error, _SOON_S)
    return Shown(fetch.last, error, REFRESH_S if live or error is not None else 0.0)


def first_that_says_something(shown: Mapping[str, Shown]) -> str | None:
    """Of logs in the order in which somebody would look: the first with something in it; None while
    there is none, or one before it is not known yet."""
    for kind, log in shown.items():
        if log.says_something or log.error is not None:
            return kind
        if log.log is None:
            return None
    return None


def forget(key: str) -> None:
    """The log was closed; the next `read` asks anew."""
    st.session_state.get("log-fetches", {}).pop(key, None)
