"""Reading the end of a job's log from its cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib.errors import InvalidInput
from lib.portal.asking import ask
from lib.protocol.messages import LogKind, LogRequest

if TYPE_CHECKING:
    from lib.model import ClusterId
    from lib.reconciler.reconciler import Reconciler


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
        return ask(self._reconciler, lambda: self._ask(cluster, LogRequest(job, LogKind(kind))))

    async def _ask(self, cluster: ClusterId, request: LogRequest) -> LogText:
        reply = await self._reconciler.link(cluster).log(request)
        return LogText(reply.text, reply.truncated)
