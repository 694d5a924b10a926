"""Throughput of one forward: the gate against OpenSSH's sshd, on this computer.

Both run as the current user with the same cipher, and the same stock `ssh` client carries
a local forward to the same source of bytes. Rounds are interleaved, so that whatever else
the computer does hits both. Prints a table and writes `benchmarks/results/gate.json`. It
needs OpenSSH's sshd, for which root makes the folder /run/sshd.

    python -m benchmarks.gate [--rounds 7] [--megabytes 512] [--smoke]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import PROJECT, Bound, Command, finish, lacking, table
from lib.gate.audit import Audit
from lib.gate.job_record import JobRecord, SessionFolders
from lib.gate.jobs import Jobs
from lib.gate.ssh_server import USER, GateServer
from lib.gate.state_dir import StateDir, public_text
from lib.gate.verbs import Verbs
from lib.protocol.messages import JobKind
from lib.protocol.ssh_algorithms import CIPHERS

HERE = "127.0.0.1"
SESSION = "00000000-0000-4000-8000-000000000001"
BOUND = 0.8
_PIECE = bytes(256 * 1024)
Rates = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Server:
    """Something that `ssh` can connect to, and what to forward to there."""

    port: int
    user: str
    target: str


def main() -> int:
    """Measure, print, write. Exit code 1 when the bound is missed."""
    command = Command(__doc__)
    command.size("--rounds", 7, smoke=1)
    command.size("--megabytes", 512, smoke=8)
    serving = ("FOLDER", "PORT")
    command.parser.add_argument("--serve", nargs=2, metavar=serving, help=argparse.SUPPRESS)
    options = command.parse()
    if options.serve:
        asyncio.run(serve_gate(Path(options.serve[0]), int(options.serve[1])))
        return 0
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists():
        lacking("OpenSSH's sshd is not installed")
    with tempfile.TemporaryDirectory(prefix="sb-bench-") as name:
        rates = measure(Path(name), sshd, options.rounds, options.megabytes)
    return report(rates, options.megabytes, smoke=options.smoke)


def measure(folder: Path, sshd: str, rounds: int, megabytes: int) -> Rates:
    """MB/s of each round, by server."""
    _keys(folder)
    rates: Rates = {"gate": [], "sshd": []}
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(byte_source(megabytes))
        servers = {
            "gate": stack.enter_context(gate_process(folder, source)),
            "sshd": stack.enter_context(sshd_process(folder, sshd, source)),
        }
        sockets = {k: stack.enter_context(forward(folder, s)) for k, s in servers.items()}
        for round_number in range(rounds + 1):
            for server, path in sockets.items():
                rate = download(path, megabytes)
                if round_number:  # the first one warms up
                    rates[server].append(rate)
    return rates


def report(rates: Rates, megabytes: int, *, smoke: bool) -> int:
    """Print the table, write the JSON."""
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ratio = middle["gate"] / middle["sshd"]
    rows = [(name, middle[name], min(values), max(values)) for name, values in rates.items()]
    record = {
        "megabytes_per_round": megabytes,
        "cipher": CIPHERS[0],
        "mb_per_s": rates,
        "median_mb_per_s": middle,
        "ratio": ratio,
        "bound": BOUND,
    }
    printed = table(("server, MB/s", "median", "least", "most"), rows, 0)
    return finish("gate", printed, record, [Bound("gate / sshd", ratio, least=BOUND)], smoke=smoke)


@contextlib.contextmanager
def byte_source(megabytes: int) -> Iterator[int]:
    """A server that sends so many megabytes of zeros to whoever connects."""
    server = socket.create_server((HERE, 0))

    def serve() -> None:
        while True:
            try:
                conn, _ = server.accept()
            except OSError:
                return
            with conn, contextlib.suppress(OSError):
                for _ in range(megabytes * 4):
                    conn.sendall(_PIECE)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(server.getsockname()[1])
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@contextlib.contextmanager
def gate_process(folder: Path, source: int) -> Iterator[Server]:
    """The gate's own server in a process of its own, with `source` as a live notebook."""
    command = [sys.executable, "-m", "benchmarks.gate", "--serve", str(folder), str(source)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port, host_key = process.stdout.readline().strip().split(" ", 1)
        _trust(folder, int(port), host_key)
        yield Server(int(port), USER, f"s-{SESSION}:1")
    finally:
        process.terminate()
        process.communicate(timeout=10)


@contextlib.contextmanager
def sshd_process(folder: Path, sshd: str, source: int) -> Iterator[Server]:
    """OpenSSH's sshd as the current user, with the same cipher."""
    port = _free_port()
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress {HERE}\nHostKey {folder / 'host'}\nPidFile none\n"
        f"AuthorizedKeysFile {folder / 'key.pub'}\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nCiphers {CIPHERS[0]}\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    process = subprocess.Popen([sshd, "-D", "-f", str(config)])
    try:
        _trust(folder, port, (folder / "host.pub").read_text().strip())
        _wait_for(port, process)
        yield Server(port, _user(), f"{HERE}:{source}")
    finally:
        process.terminate()
        process.wait(timeout=10)


@contextlib.contextmanager
def forward(folder: Path, server: Server) -> Iterator[Path]:
    """A stock client with one local forward; gives the local socket, as the portal uses it."""
    path = folder / f"{server.port}.sock"
    command = [
        *("ssh", "-F", "/dev/null", "-N", "-i", str(folder / "key"), "-c", CIPHERS[0]),
        *("-o", f"UserKnownHostsFile={folder / 'known_hosts'}", "-o", "BatchMode=yes"),
        *("-o", "IdentitiesOnly=yes", "-o", "ExitOnForwardFailure=yes"),
        *("-L", f"{path}:{server.target}", "-p", str(server.port), "-l", server.user),
        *("--", HERE),
    ]
    process = subprocess.Popen(command)
    try:
        while not path.exists():
            if process.poll() is not None:
                raise RuntimeError(f"ssh does not reach {server}")
            time.sleep(0.02)
        yield path
    finally:
        process.kill()
        process.wait(timeout=10)


def download(path: Path, megabytes: int) -> float:
    """MB/s of one connection."""
    buffer = bytearray(1024 * 1024)
    got = 0
    with socket.socket(socket.AF_UNIX) as conn:
        conn.settimeout(60)
        conn.connect(str(path))
        began = time.perf_counter()
        while read := conn.recv_into(buffer):
            got += read
        took = time.perf_counter() - began
    if got != megabytes * 2**20:
        raise RuntimeError(f"only {got} bytes came through {path}")
    return got / took / 1e6


class OneNotebook(Jobs):
    """The gate's jobs, with one more that is the source of bytes."""

    source = 0

    def where(self, job_id: str) -> tuple[str, int] | None:
        return (HERE, self.source) if job_id == SESSION else super().where(job_id)

    def record(self, job_id: str) -> JobRecord:
        if job_id != SESSION:
            return super().record(job_id)
        return JobRecord(
            SESSION, JobKind.SESSION, "bench", "m", "1", "", "n", "small", 60, [], time.time()
        )


async def serve_gate(folder: Path, source: int) -> None:
    """The real server on a home of its own, until killed."""
    home = StateDir(folder / "home")
    first = {"python": sys.executable, "code": str(PROJECT)}
    home.init("bench", folder / "key.pub", None, first)
    policy, folders, audit = home.policy(), SessionFolders(home.path), Audit(home.audit)
    jobs = OneNotebook(folders, policy, policy.scheduler(home.path), audit)
    jobs.source = source
    server = GateServer(home.portal_key(), jobs, Verbs(policy, folders, jobs, audit), audit)
    acceptor = await server.listen(0, home.host_key())
    print(acceptor.get_port(), public_text(home.host_key()), flush=True)
    await asyncio.Event().wait()


def _keys(folder: Path) -> None:
    for name in ("key", "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)


def _trust(folder: Path, port: int, host_key: str) -> None:
    with (folder / "known_hosts").open("a") as file:
        file.write(f"[{HERE}]:{port} {host_key}\n")


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection((HERE, port), timeout=5).close()
            return
        time.sleep(0.02)
    raise RuntimeError("sshd does not start")


def _free_port() -> int:
    with socket.create_server((HERE, 0)) as server:
        return int(server.getsockname()[1])


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


if __name__ == "__main__":
    sys.exit(main())
