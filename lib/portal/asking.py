"""Asking something of a cluster, from a thread that waits for the answer."""

from __future__ import annotations

import asyncio
from concurrent.futures import TimeoutError as WaitedTooLong
from typing import TYPE_CHECKING, Any, TypeVar

from lib.errors import ClusterUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from lib.reconciler.reconciler import Reconciler

_T = TypeVar("_T")
_TIMEOUT_S = 15.0


def ask(reconciler: Reconciler, question: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """The answer of a question that is asked on the reconciler's loop. May take seconds.

    Raises:
        ClusterUnreachable: the cluster cannot be asked now; and what the question raises.
    """
    loop = reconciler.loop
    if loop is None:
        raise ClusterUnreachable("The portal is starting. Try again in a moment.")
    asked = asyncio.run_coroutine_threadsafe(question(), loop)
    try:
        return asked.result(_TIMEOUT_S)
    except WaitedTooLong:
        asked.cancel()
        raise ClusterUnreachable("The cluster does not answer. Try again later.") from None
    except KeyError:
        raise ClusterUnreachable("This portal is not connected to that cluster.") from None
