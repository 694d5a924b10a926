"""A real Slurm on this host alone, for as long as a test module runs: no systemd, own ports.

It needs root (slurmd and munge change users) and Debian's packages slurmctld, slurmd,
slurm-client and munge; `missing` says which of it is not there.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_DAEMONS = ("slurmctld", "slurmd", "munged")
_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0
_CGROUPS = Path("/sys/fs/cgroup")
_SBIN = ":/usr/sbin:/usr/local/sbin"


def missing() -> str:
    """Why no Slurm can be started here, one sentence; "" when it can."""
    if os.geteuid() != 0:
        return "A test Slurm needs root."
    path = os.environ.get("PATH", os.defpath) + _SBIN
    absent = [name for name in (*_DAEMONS, *_COMMANDS) if shutil.which(name, path=path) is None]
    if absent:
        return f"A test Slurm needs {', '.join(absent)} (packages slurmctld slurmd munge)."
    for user in ("slurm", "munge"):
        try:
            pwd.getpwnam(user)
        except KeyError:
            return f"A test Slurm needs the user {user}."
    return ""


class SingleSlurm:
    """Controller, one node with two cores and two pretended GPUs, and munge.

    Args:
        root: a folder that every user may enter; all files are below it.
        conf: additional lines of slurm.conf.
        cores: how many the node says it has.
    """

    def __init__(self, root: Path, *, conf: str = "", cores: int = 2) -> None:
        self.root = root
        self.host = socket.gethostname().split(".")[0]
        #: Its own for each, as are the control groups that slurmd names after it.
        self.node = f"sb{random.randrange(10**8)}"
        self.conf = root / "slurm.conf"
        self.cgroups = all(os.access(_CGROUPS / kind, os.W_OK) for kind in ("freezer", "memory"))
        self._pids: dict[str, int] = {}
        self._write(conf, cores)

    @property
    def options(self) -> dict[str, Any]:
        """What the policy's `[scheduler]` table says to use this Slurm."""
        return {"bin": "/usr/bin", "conf": str(self.conf)}

    @property
    def env(self) -> Mapping[str, str]:
        """For Slurm's own commands in a test."""
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Returns when the node is idle."""
        self.start_munge()
        self.start_controller()
        self.start_node()
        self.wait_idle()

    def start_munge(self) -> None:
        """The daemon by which Slurm knows who asks."""
        munge = self.root / "munge"
        self._daemon(
            "munged",
            *("setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups"),
            *("munged", "--num-threads=2", f"--key-file={munge}/key", f"--socket={munge}/socket"),
            *(f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"),
            "--foreground",
        )
        _until((munge / "socket").exists, "munged opens its socket")

    def start_controller(self) -> None:
        """Also after `kill("slurmctld")`: it takes its saved state up again."""
        self._daemon("slurmctld", "slurmctld", "-D", "-f", str(self.conf))

    def lose_state(self) -> None:
        """What befalls a controller whose disk is gone: it knows no job, and numbers anew."""
        self.kill("slurmctld")
        for path in (self.root / "slurmctld").iterdir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
        self.start_controller()
        self.wait_idle()

    def start_node(self) -> None:
        """Also after `kill("slurmd")`."""
        self._daemon("slurmd", "slurmd", "-D", "-N", self.node, "-f", str(self.conf))

    def wait_idle(self) -> None:
        """Until jobs can start."""
        _until(lambda: self.run("sinfo", "-h", "-o", "%T").strip() == "idle", "the node is idle")

    def signal(self, daemon: str, number: signal.Signals) -> None:
        """Stop, continue or otherwise disturb one of the daemons."""
        os.kill(self._pids[daemon], number)

    def kill(self, daemon: str) -> None:
        """Without any warning; returns when it is gone."""
        self.signal(daemon, signal.SIGKILL)
        os.waitpid(self._pids.pop(daemon), 0)

    def run(self, *command: str) -> str:
        """The standard output of a Slurm command; "" when it fails."""
        done = subprocess.run(
            command, env=dict(self.env), capture_output=True, text=True, timeout=300, check=False
        )
        return done.stdout if done.returncode == 0 else ""

    def jobs(self) -> list[tuple[str, str, str]]:
        """Id, state and name of every job the controller remembers."""
        lines = self.run("squeue", "-h", "-t", "all", "-o", "%i|%T|%j").splitlines()
        return [(i, s, n) for i, s, n in (line.split("|", 2) for line in lines)]

    def stop(self) -> None:
        """Ends all jobs, then the daemons; nothing is left."""
        if "slurmctld" in self._pids:
            self.signal("slurmctld", signal.SIGCONT)
            self.run("scancel", "--user=root", "--signal=KILL", "--full")
            self.run("scancel", "--user=root")
            with contextlib.suppress(AssertionError):
                _until(lambda: not self.run("squeue", "-h"), "the jobs end")
        for daemon in ("slurmd", "slurmctld", "munged"):
            pid = self._pids.pop(daemon, None)
            if pid is not None:
                _end(pid)
        for group in _CGROUPS.glob(f"*/slurm_{self.node}"):
            for folder in sorted(group.rglob("*/"), reverse=True):
                folder.rmdir()
            group.rmdir()

    def _daemon(self, name: str, *argv: str) -> None:
        log = self.root / "log" / f"{name}.out"
        with log.open("ab") as out:
            process = subprocess.Popen(
                argv,
                env=dict(self.env),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._pids[name] = process.pid
        process.returncode = 0  # waited for by pid, in `kill` and `stop`

    def _write(self, conf: str, cores: int) -> None:
        root = self.root
        root.chmod(0o755)
        for name in ("munge", "slurmctld", "slurmd", "log", "gpus"):
            (root / name).mkdir(exist_ok=True)
        key = root / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        for path in (root / "munge", key):
            shutil.chown(path, "munge", "munge")
        for path in (root / "slurmctld", root / "log"):
            shutil.chown(path, "slurm")
        for number in range(2):
            null = os.makedev(1, 3)  # what is pretended must at least be a device
            os.mknod(root / "gpus" / f"gpu{number}", stat.S_IFCHR | 0o666, null)
        controller, node = _free_port(), _free_port()
        cgroup = "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\nConstrainSwapSpace=no\n"
        (root / "cgroup.conf").write_text(cgroup if self.cgroups else "CgroupPlugin=disabled\n")
        (root / "gres.conf").write_text(f"Name=gpu File={root}/gpus/gpu[0-1]\n")
        self.conf.write_text(f"""\
ClusterName=single
SlurmctldHost={self.host}(127.0.0.1)
SlurmUser=slurm
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={root}/slurmctld
SlurmdSpoolDir={root}/slurmd
SlurmctldPidFile={root}/log/slurmctld.pid
SlurmdPidFile={root}/log/slurmd.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.log
ProctrackType=proctrack/{"cgroup" if self.cgroups else "linuxproc"}
TaskPlugin=task/{"cgroup" if self.cgroups else "none"}
JobAcctGatherType=jobacct_gather/none
FirstJobId={random.randrange(1000, 60_000_000)}
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
ReturnToService=2
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
KillWait=20
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs={cores} RealMemory=8000 Gres=gpu:2
NodeName={self.node} NodeHostname={self.host} NodeAddr=127.0.0.1
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=10 State=UP
{conf}
""")


@contextlib.contextmanager
def single_slurm(*, conf: str = "", cores: int = 2) -> Iterator[SingleSlurm]:
    """A started one, in a folder of its own that is removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="sb-slurm-"))
    slurm = SingleSlurm(root, conf=conf, cores=cores)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
        shutil.rmtree(root, ignore_errors=True)


def _until(true: Any, what: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline, f"not within {_START_TIMEOUT_S} s: {what}"
        time.sleep(0.05)


def _end(pid: int) -> None:
    """TERM, and KILL after a while; the process was started by us."""
    for number in (signal.SIGCONT, signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                return
        except ChildProcessError:
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
