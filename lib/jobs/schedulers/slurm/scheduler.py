"""Scheduler `slurm`: asks Slurm's own programs on the login node.

One `squeue` answers for all jobs. A submit that gave no answer is looked for until it is
certain that the controller has settled everything it had received: see `find`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.errors import InvalidInput, Refused, Unavailable
from lib.jobs.config_table import ConfigTable
from lib.jobs.interfaces import JobKey, JobSpec, JobView
from lib.jobs.schedulers.slurm import commands, parsing
from lib.jobs.schedulers.slurm.nodes import Nodes
from lib.jobs.schedulers.slurm.programs import Answer, run
from lib.model import EndReason, JobState, QueueLoad

_ACCOUNTING_AGAIN_S = 3600.0
_ABSOLUTE = re.compile(r"/[A-Za-z0-9._/+-]*")
#: Exit statuses of `timeout` for a program that it had to end.
_CUT_OFF = (124, 137)
#: And for one that it could not start.
_NOT_STARTED = (126, 127)
#: Faults that sbatch finds by itself, before it asks anybody.
_BAD_REQUEST = re.compile(r"unrecognized option|invalid|ambiguous|requires an argument", re.I)


class _Unclear(Unavailable):
    """The controller answered, and not about this job."""

    code = "unclear"


class SlurmScheduler:
    """See `lib.jobs.interfaces.Scheduler`. Keeps nothing on disk."""

    def __init__(
        self,
        bin_folder: Path,
        conf: str = "",
        *,
        poll_s: float = 1.5,
        gone_after_s: float = 60.0,
        settle_s: float = 45.0,
        timeout_s: float = 30.0,
        submit_timeout_s: int = 60,
    ) -> None:
        self.poll_s = poll_s
        self.gone_after_s = gone_after_s
        self.submit_timeout_s = float(submit_timeout_s + 2)  # `timeout` needs a moment, too
        self._submit_timeout_s = submit_timeout_s
        self._settle_s = settle_s
        self._timeout_s = timeout_s
        self._bin = bin_folder
        self._env = commands.environment(conf)
        self._views: Mapping[str, JobView] = {}
        self._views_at = 0.0
        #: What the controller showed of jobs that its list leaves out.
        self._shown: Mapping[JobKey, JobView] = {}
        self._forgotten: set[JobKey] = set()
        self._quiet_since: dict[str, float] = {}
        self._no_accounting_until = 0.0
        self._nodes = Nodes(self._show_node)

    @classmethod
    def from_options(cls, options: Mapping[str, object], _home: Path) -> SlurmScheduler:
        """From the policy's `[scheduler]` table (docs/gate.md). Raises `InvalidInput`."""
        table = ConfigTable(options, "policy [scheduler]")
        bin_folder = Path(table.text("bin", "/usr/bin", like=_ABSOLUTE))
        conf = table.get("conf", str, "")
        if conf and not conf.startswith("/"):
            raise InvalidInput("policy [scheduler]: conf must be an absolute path.")
        made = cls(
            bin_folder,
            conf,
            poll_s=table.number("poll_s", 1.5, low=0.2, high=60),
            gone_after_s=table.whole("gone_after_s", 60, low=1, high=86_400),
            settle_s=table.whole("settle_s", 45, low=1, high=3600),
            timeout_s=table.whole("timeout_s", 30, low=1, high=600),
            submit_timeout_s=table.whole("submit_timeout_s", 60, low=1, high=600),
        )
        table.close()
        return made

    async def submit(self, job: JobSpec) -> str:
        """`sbatch`, with the script on its standard input."""
        argv = commands.sbatch(self._bin, job, timeout_s=self._submit_timeout_s)
        answer = await self._run(
            argv, timeout_s=self.submit_timeout_s + 5, data=commands.script(job)
        )
        if answer.status in _CUT_OFF:
            raise Unavailable(f"Slurm's sbatch gave no answer in {self._submit_timeout_s} s.")
        if answer.status in _NOT_STARTED:
            raise Refused(f"sbatch cannot be started on the cluster: {answer.words}.")
        job_id = parsing.submitted(answer.out) if answer.status == 0 else None
        if job_id is not None:
            return job_id
        if _is_refusal(answer):
            raise Refused(f"The cluster does not take the job. Slurm says: {answer.words}.")
        raise Unavailable(f"Slurm gave no clear answer to the submit: {answer.words}.")

    async def query(self) -> Mapping[str, JobView]:
        """One `squeue` for all jobs of this account, also those that nobody here submitted."""
        asked_at = time.time()
        try:
            views = {view.id: view for view in await self._jobs()}
        except Unavailable:
            self._quiet_since.clear()
            raise
        self._views, self._views_at = views, asked_at
        await self._nodes.learn({v.node for v in views.values() if v.state is JobState.RUNNING})
        self._forgotten &= {view.key for view in views.values()}
        return {i: view for i, view in views.items() if view.key not in self._forgotten}

    async def recall(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, JobView]:
        """The controller, job by job; accounting for the end of those that it has not.

        A list without a job proves nothing: it was seen empty, with exit status 0, while the
        jobs ran on. That the controller has none of that number, or another, proves it.
        """
        found: dict[JobKey, JobView] = {}
        gone: list[JobKey] = []
        for job in jobs:
            try:
                view = await self._show(job)
            except _Unclear:
                continue  # of this one nothing is certain
            if view is None or not view.is_of(job):
                gone.append(job)
            else:
                found[job] = view
        self._shown = dict(found)
        await self._nodes.learn({v.node for v in found.values() if v.state is JobState.RUNNING})
        ends = await self._accounted(gone) if gone else []
        for job in gone:
            lost = JobView(job.id, job.name, JobState.ENDED, end_reason=EndReason.LOST)
            found[job] = next((view for view in ends if view.is_of(job)), lost)
        return found

    async def find(self, name: str, tried_until: float | None = None) -> str | None:
        """By the own uid and the name.

        Its absence counts only when the controller has answered for `settle_s`, without a
        break, since nobody tries any more: it may hold a request that it has received and
        not worked on, for as long as MessageTimeout and longer when it was stopped.
        """
        fresh_from = time.time() if tried_until is None else time.time() - self.poll_s
        if self._views_at <= max(tried_until or 0.0, fresh_from):
            await self.query()
        named = sorted((int(v.id), v) for v in self._views.values() if v.name == name)
        if named:
            self._quiet_since.pop(name, None)
            live = [job_id for job_id, v in named if v.state is not JobState.ENDED]
            return str((live or [named[0][0]])[0])
        if tried_until is None:
            return None
        since = self._quiet_since.setdefault(name, time.monotonic())
        still = "Slurm may still take the job from a submit that it has not answered."
        if self._views_at <= tried_until:
            del self._quiet_since[name]
            raise Unavailable(still)
        if time.monotonic() - since < self._settle_s:
            raise Unavailable(still)
        del self._quiet_since[name]
        return None

    async def cancel(self, job: JobKey) -> None:
        """`scancel`, once the controller says that the number is this job's.

        The grace is the site's KillWait.
        """
        view = await self._show(job)
        if view is None or view.state is JobState.ENDED or not view.is_of(job):
            return
        answer = await self._run(commands.scancel(self._bin, job.id))
        if answer.status != 0 and "Invalid job id" not in answer.err:
            raise Unavailable(f"Slurm did not take the cancel: {answer.words}.")

    async def forget(self, job: JobKey) -> None:
        """Slurm itself forgets; here it is no longer told of."""
        view = self._views.get(job.id)
        if view is not None and view.state is JobState.ENDED and view.is_of(job):
            self._forgotten.add(view.key)

    async def load(self) -> Sequence[QueueLoad]:
        """`sinfo` for nodes, cores and GPUs, `squeue` for who waits."""
        nodes = await self._asked(commands.sinfo(self._bin))
        waiting = await self._asked(commands.waiting(self._bin))
        return parsing.load(nodes.out, waiting.out)

    def endpoint_host(self) -> str:
        """The node's own name: which node it is, is known only when the job runs."""
        return ""

    def vouches(self, job: JobKey, host: str, port: int) -> bool | None:
        """By the addresses of the node that Slurm gave the job."""
        view = self._views.get(job.id) or self._shown.get(job)
        if view is not None and not view.is_of(job):
            return False
        if view is None or not view.node:
            return None
        if view.state is JobState.ENDED or not 0 < port < 65536:
            return False
        addresses = self._nodes.addresses(view.node)
        return None if addresses is None else host.lower() in addresses

    async def _jobs(self) -> list[JobView]:
        answer = await self._asked(commands.squeue(self._bin, os.getuid()))
        if answer.status != 0:
            raise Unavailable(f"Slurm's squeue failed: {answer.words}.")
        try:
            return parsing.jobs(answer.out)
        except parsing.NotUnderstood as exc:
            raise Unavailable(f"Slurm's squeue printed what is not understood: {exc}.") from exc

    async def _show(self, job: JobKey) -> JobView | None:
        """What the controller has under the number of this job; None where it has nothing.

        Raises `Unavailable` when that is not clear.
        """
        if not job.id.isdigit():
            return None
        answer = await self._asked(commands.show_job(self._bin, job.id))
        if answer.status != 0 and "Invalid job id" in answer.err:
            return None
        view = parsing.shown(answer.out, os.getuid()) if answer.status == 0 else None
        if view is None or view.id != job.id:
            raise _Unclear(f"Slurm's scontrol gave no clear answer: {answer.words}.")
        return view

    async def _accounted(self, jobs: Sequence[JobKey]) -> list[JobView]:
        """How jobs ended that the controller has no more; empty where nobody knows.

        That they are over is certain without it, so that nothing waits for an accounting
        that does not answer.
        """
        if time.monotonic() < self._no_accounting_until:
            return []
        ids = sorted({job.id for job in jobs if job.id.isdigit()})
        answer = await self._run(commands.sacct(self._bin, os.getuid(), ids))
        if answer.status == 0:
            return parsing.accounted(answer.out)
        if not answer.silent:
            self._no_accounting_until = time.monotonic() + _ACCOUNTING_AGAIN_S
        return []

    async def _show_node(self, node: str) -> str:
        return (await self._asked(commands.show_node(self._bin, node))).out

    async def _asked(self, argv: Sequence[str]) -> Answer:
        answer = await self._run(argv)
        if answer.silent:
            raise Unavailable(f"{answer.words}.")
        return answer

    async def _run(
        self, argv: Sequence[str], *, timeout_s: float | None = None, data: bytes = b""
    ) -> Answer:
        return await run(argv, self._env, timeout_s=timeout_s or self._timeout_s, data=data)


def _is_refusal(answer: Answer) -> bool:
    """Whether it is certain that no job came of it."""
    if answer.status == 0 or answer.silent:
        return False
    return "submission failed" in answer.err or bool(_BAD_REQUEST.search(answer.err))
