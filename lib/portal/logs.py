"""Reading the end of a job's log from its cluster."""

from __future__ import annotations

import asyncio
from concurrent.futures import TimeoutError as WaitedTooLong
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib.errors import ClusterUnreachable, InvalidInput
from lib.protocol.messages import LogKind, LogRequest

if TYPE_CHECKING:
    from lib.model import ClusterId
    from lib.reconciler.reconciler import Reconciler

_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class LogText:
    """The end of a log; `truncated` when there was more before it."""

    text: str
    truncated: bool


class JobLogs:
    """Asks the gate through the reconciler's link."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler

    def read(self, cluster: ClusterId, job: str, kind: str) -> LogText:
        """May take seconds.

        Args:
            kind: "job", "module" or "notebook".
        Raises:
            InvalidInput: there is no such kind.
            ClusterUnreachable: the cluster cannot be asked now.
        """
        if kind not in set(LogKind):
            raise InvalidInput(f"A log is one of: {', '.join(LogKind)}.")
        loop = self._reconciler.loop
        if loop is None:
            raise ClusterUnreachable("The portal is starting. Try again in a moment.")
        asked = asyncio.run_coroutine_threadsafe(
            self._ask(cluster, LogRequest(job, LogKind(kind))), loop
        )
        try:
            return asked.result(_TIMEOUT_S)
        except WaitedTooLong:
            asked.cancel()
            raise ClusterUnreachable("The cluster does not answer. Try again later.") from None

    async def _ask(self, cluster: ClusterId, request: LogRequest) -> LogText:
        try:
            link = self._reconciler.link(cluster)
        except KeyError:
            raise ClusterUnreachable("This portal is not connected to that cluster.") from None
        reply = await link.log(request)
        return LogText(reply.text, reply.truncated)
