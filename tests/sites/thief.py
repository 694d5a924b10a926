"""Somebody who has stolen everything that the portal's account owns.

Works on the portal's host, as that account, with the stock OpenSSH clients: through the
tunnel's socket with the restricted key, or through the control socket of the connection
that the portal itself keeps.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from lib.model import JobState
from lib.protocol.codec import encode, read_reply
from lib.protocol.messages import (
    COMMAND,
    CancelReply,
    GateInfo,
    GetReply,
    JobStatus,
    LogReply,
    PutReply,
    SubmitReply,
    Verb,
    WatchMessage,
    WatchRequest,
)
from testbed.places import PROJECT
from tests.running import wait_for
from tests.sites.lab import Lab
from tests.sites.standing import CLUSTER, DATA, PYTHON, TUNNELS, Standing, launch

ACCOUNT = "scenebridge"
#: The two ways to the gate that the account has.
TUNNEL, CONTROL = "tunnel", "control"
WAYS = (TUNNEL, CONTROL)
INFO = f"{COMMAND} info"
_REPLIES = {
    Verb.INFO: GateInfo,
    Verb.SUBMIT: SubmitReply,
    Verb.CANCEL: CancelReply,
    Verb.LOG: LogReply,
    Verb.GET: GetReply,
    Verb.PUT: PutReply,
}


def client_hello() -> bytes:
    """The first bytes of a TLS client, which only a TLS server answers with a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(
            incoming, outgoing, server_hostname="x"
        ).do_handshake()
    return outgoing.read()


HELLO, ANSWERED = client_hello(), b"\x16"


class Thief:
    """With everything of the portal's account in hand."""

    def __init__(self, site: Standing) -> None:
        self.site = site
        self.host = site.portal
        self.key = f"{DATA}/keys/{CLUSTER}"
        self.socket = f"{TUNNELS}/ada/{CLUSTER}.sock"
        runtime = json.loads(self.host.path(f"{DATA}/portal.json").read_text())["runtime"]
        self.control = f"{runtime}/{CLUSTER}.ctl"
        self.known = f"{runtime}/{CLUSTER}.known"
        self.folder = "/tmp/thief"
        self.host.run(["install", "-d", "-m", "700", self.folder], ACCOUNT)

    # --- stock clients ----------------------------------------------------------------------

    def options(self, way: str) -> list[str]:
        """For ssh, scp and sftp."""
        common = ["-F", "/dev/null", "-oBatchMode=yes", "-oLogLevel=INFO"]
        if way == CONTROL:
            return [*common, f"-oControlPath={self.control}", "-oProxyCommand=exit 255"]
        return [*common, *self.identity(), *self.through(self.socket)]

    def identity(self) -> list[str]:
        """The restricted key, and what the portal knows of the gate's host key."""
        return [
            *("-i", self.key, "-oIdentitiesOnly=yes", "-oUpdateHostKeys=no"),
            *("-oStrictHostKeyChecking=yes", f"-oHostKeyAlias=scenebridge-{CLUSTER}"),
            *(f"-oUserKnownHostsFile={self.known}", "-oConnectTimeout=10", "-oUser=portal"),
        ]

    def through(self, socket: str) -> list[str]:
        """Connect by a UNIX socket instead of a host and port."""
        proxy = f"{PYTHON} -I -S {PROJECT}/lib/tunnels/fdpass.py {socket}"
        return ["-oProxyUseFdpass=yes", f"-oProxyCommand={proxy}"]

    def ssh(
        self, way: str, *args: str, data: str = "{}\n", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `ssh [args]`; the destination `gate` is put where `args` has it."""
        return self.run(["ssh", *self.options(way), *args], data, env)

    def run(
        self, argv: list[str], data: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Any program, as the portal's account on the portal's host."""
        return self.host.run(argv, ACCOUNT, env, input=data, timeout=300, check=False)

    def may(self, way: str) -> bool:
        """The allowed sibling of every refusal: the same client may ask for `info`."""
        return '"ok":true' in self.ssh(way, "--", "gate", INFO).stdout

    def reach(self, way: str, target: str, hello: bytes = HELLO) -> tuple[bytes, str]:
        """`ssh -W TARGET`: say hello there; what came back, and what ssh complained of."""
        argv = ["ssh", *self.options(way), "-W", target, "--", "gate"]
        pipe = subprocess.PIPE
        with self.host.popen(argv, ACCOUNT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            out, err = process.communicate(hello, timeout=300)
        return out, err.decode()

    @contextmanager
    def forward(self, way: str, flag: str, what: str) -> Iterator[subprocess.Popen[str]]:
        """`ssh -N FLAG WHAT` while the block runs (`-L`, `-R`, `-D`)."""
        argv = ["ssh", *self.options(way), "-N", "-oExitOnForwardFailure=yes", flag, what]
        process = self.host.popen(
            [*argv, "--", "gate"], ACCOUNT,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()  # OpenSSH 9.2 may miss another signal before it polls
            process.communicate(timeout=300)
            if way == CONTROL:  # a forward of the master's outlives the client that asked
                self.ssh(way, "-O", "cancel", flag, what, "--", "gate")

    @contextmanager
    def local(self, way: str, target: str) -> Iterator[Path]:
        """A UNIX socket, as seen from outside, that leads to `target` if the gate lets it."""
        name = f"{self.folder}/{uuid.uuid4().hex[:8]}.sock"
        path = self.host.path(name)
        with self.forward(way, "-L", f"{name}:{target}") as process:
            wait_for("the listener", lambda: path.is_socket() or process.poll() is not None)
            yield path
        path.unlink(missing_ok=True)

    # --- verbs ------------------------------------------------------------------------------

    def ask(self, verb: Verb, request: Any, body: bytes = b"") -> tuple[Any, bytes]:
        """The reply and the bytes after it; raises what the gate reported."""
        data = request if isinstance(request, bytes) else encode(request)
        pipe = subprocess.PIPE
        argv = ["ssh", *self.options(CONTROL), "--", "gate", f"{COMMAND} {verb.value}"]
        with self.host.popen(argv, ACCOUNT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            out, err = process.communicate(data + body, timeout=300)
        line, _, rest = out.partition(b"\n")
        assert line, err.decode()
        return read_reply(_REPLIES[verb], line), rest

    def jobs(self) -> dict[str, JobStatus]:
        """All that the gate tells the portal, endpoints included."""
        with self._watch() as messages:
            return _statuses(next(messages))

    def job(self, job_id: str, until: Callable[[JobStatus], bool]) -> JobStatus:
        """Follow what the gate tells the portal until it is so."""
        said = None
        with self._watch() as messages:
            for message in messages:
                said = _statuses(message).get(job_id, said)
                if said is not None and until(said):
                    return said
        raise AssertionError(f"the gate closed the connection; job {job_id}: {said}")

    @contextmanager
    def _watch(self) -> Iterator[Iterator[WatchMessage]]:
        """The gate's stream, by which it pings when there is nothing to say."""
        argv = ["ssh", *self.options(CONTROL), "--", "gate", f"{COMMAND} watch"]
        pipe = subprocess.PIPE
        process = self.host.popen(argv, ACCOUNT, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            process.stdin.write(encode(WatchRequest({})))
            process.stdin.flush()
            yield (WatchMessage(**json.loads(line)) for line in process.stdout)
        finally:
            process.kill()
            process.communicate(timeout=300)

    def ended(self, job_id: str) -> JobStatus:
        return self.job(job_id, lambda job: job.state is JobState.ENDED)

    # --- what the gate wrote down -------------------------------------------------------------

    def audit(self) -> list[dict[str, Any]]:
        text = (self.site.gate_home / "audit.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    @contextmanager
    def audited(self, what: str) -> Iterator[None]:
        """The block makes the gate write down at least one refusal of that kind.

        One that says the same as the last before it is only counted, so any may be it.
        """
        yield
        deadline = time.monotonic() + 300
        while not self.refusals(what) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.refusals(what), f"no refusal of {what} in the gate's audit"

    def refusals(self, what: str) -> int:
        """How many of that kind it wrote down so far."""
        return sum(line.get("what") == what for line in self.audit())


class Labs(ExitStack):
    """At most one notebook of an honest user, with a way to it for the thief."""

    def __init__(self, site: Standing, folder: Path) -> None:
        super().__init__()
        self._site, self._folder = site, folder
        self._lab: Lab | None = None

    def of(self, thief: Thief) -> Lab:
        """The one that there is, or a new one."""
        if self._lab is None:
            api = self.enter_context(self._site.api())
            session = launch(api, self._site)["id"]
            job = thief.jobs()[session]
            self.callback(self._end, api, thief, job.id)
            socket = self.enter_context(thief.local(TUNNEL, f"s-{job.id}:1"))
            self._lab = Lab(job.id, socket, job.endpoint, self._folder, keep=True)
            self.callback(self._lab.close)
        return self._lab

    def _end(self, api: httpx.Client, thief: Thief, job_id: str) -> None:
        self._lab = None
        api.delete(f"/api/sessions/{job_id}").raise_for_status()
        thief.ended(job_id)


def _statuses(message: WatchMessage) -> dict[str, JobStatus]:
    return {job["id"]: _status(job) for job in message.jobs}


def _status(job: dict[str, Any]) -> JobStatus:
    line = json.dumps({"ok": True, "result": {"status": job, "created": True}}).encode()
    return read_reply(SubmitReply, line).status
