"""Background fetch of logs: asking a cluster takes seconds, and no page waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import streamlit as st

from lib.errors import SceneBridgeError
from lib.portal.facade import LogText

REFRESH_S = 5.0
_POOL = ThreadPoolExecutor(max_workers=4, thread_name_prefix="page-log")


@dataclass(slots=True)
class _Fetch:
    asked: Future[LogText]
    since: float
    last: LogText | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What can be shown of a log now; both empty while it is fetched for the first time."""

    log: LogText | None
    error: SceneBridgeError | None


def read(key: str, ask: Callable[[], LogText], *, live: bool) -> Shown:
    """The newest text of a log; asks again every few seconds while `live`.

    Call it on every rerun; `ask` runs in another thread.
    """
    fetches: dict[str, _Fetch] = st.session_state.setdefault("log-fetches", {})
    fetch = fetches.get(key)
    if fetch is None:
        fetch = fetches[key] = _Fetch(_POOL.submit(ask), time.monotonic())
    if not fetch.asked.done():
        return Shown(fetch.last, None)
    error = fetch.asked.exception()
    if error is None:
        fetch.last = fetch.asked.result()
    elif not isinstance(error, SceneBridgeError):
        raise error
    if (live or error) and time.monotonic() - fetch.since > REFRESH_S:
        fetch.asked, fetch.since = _POOL.submit(ask), time.monotonic()
    return Shown(fetch.last, error if isinstance(error, SceneBridgeError) else None)


def forget(key: str) -> None:
    """The log was closed; the next `read` asks anew."""
    st.session_state.get("log-fetches", {}).pop(key, None)
