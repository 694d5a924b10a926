"""One host of a running bed: run programs in it, reach its ports, read its files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from testbed import kernel, network
from testbed.errors import BedError
from testbed.sites import Machine, Site
from testbed.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

USER_PATH = "/usr/local/bin:/usr/bin:/bin"
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BedOfHosts(Protocol):
    """What a host needs of the bed that it stands in (`testbed.bed.Bed`)."""

    @property
    def pid(self) -> int: ...

    def must_be_up(self) -> int: ...

    def host_pid(self, name: str) -> int: ...

    def wait_gone(self, pid: int) -> None: ...

    def power_on(self, hosts: Iterable[Host]) -> None: ...

    def start_services(self, hosts: Iterable[Host]) -> None: ...


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a host; `pid` as the host counts."""

    pid: int
    user: str
    argv: tuple[str, ...]


class Started(subprocess.Popen[Any]):
    """A program that runs in a host.

    It has a session of its own, and signals go to all of its process group: the process
    that entered the host's namespaces would not hand them on.
    """

    def send_signal(self, sig: int) -> None:
        self.poll()
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, sig)


class Host:
    """A host by its place in the bed; it may be off."""

    def __init__(self, bed: BedOfHosts, site: Site, machine: Machine) -> None:
        self.bed, self.site, self.machine = bed, site, machine
        self.name = machine.name

    def __repr__(self) -> str:
        return f"<Host {self.name} pid={self.pid}>"

    @property
    def pid(self) -> int:
        """Its process 1, as the machine counts; 0 while it is off."""
        return self.bed.host_pid(self.name)

    def must_be_on(self) -> int:
        self.bed.must_be_up()
        if pid := self.pid:
            return pid
        raise BedError(
            f"The host {self.name} is off; start it: python3 -m testbed start {self.name}"
        )

    def path(self, name: str | Path) -> Path:
        """A path of the host as it is seen from outside.

        An absolute link in it leads into the machine's own files: do not follow any.
        """
        return Path(f"/proc/{self.must_be_on()}/root") / str(name).lstrip("/")

    # --- programs -------------------------------------------------------------------------

    def entering(self, argv: Sequence[str | Path], user: str = "root") -> list[str]:
        """The argv that runs `argv` in the host from outside; see `environment`."""
        home = self.account(user)[1]
        if not self.path(home).is_dir():
            home = "/"
        enter = ["/usr/bin/nsenter", f"--target={self.must_be_on()}", "--all", f"--wdns={home}"]
        become = []
        if user != "root":
            become = ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}"]
            become += ["--init-groups", "--inh-caps=-all", "--"]
        return [*enter, "--", *become, *map(str, argv)]

    def environment(self, user: str = "root") -> dict[str, str]:
        """What a fresh login of that user finds."""
        _, home = self.account(user)
        path = ROOT_PATH if user == "root" else USER_PATH
        found = {"HOME": home, "USER": user, "LOGNAME": user, "PATH": path}
        found |= {"SHELL": "/bin/bash", "LANG": "C.UTF-8"}
        for person in self.site.people:
            if person.name == user:
                found |= person.environment
        return found

    def account(self, user: str) -> tuple[int, str]:
        """uid and home folder, by the host's own passwd."""
        for line in self.path("/etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if fields[0] == user:
                return int(fields[2]), fields[5]
        raise BedError(f"The host {self.name} has no user {user}.")

    def popen(
        self,
        argv: Sequence[str | Path],
        user: str = "root",
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Started:
        """Start a program in the host; `options` are those of `subprocess.Popen`."""
        whole = self.environment(user) | dict(env or {})
        command = self.entering(argv, user)
        return Started(command, env=whole, start_new_session=True, **options)

    def run(
        self,
        argv: Sequence[str | Path],
        user: str = "root",
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float = 300,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the host and wait for it; text in, text out.

        Raises:
            BedError: `check`, and it failed; the message has what it said.
            subprocess.TimeoutExpired: it and its process group were killed.
        """
        pipe = subprocess.PIPE
        with self.popen(
            argv,
            user,
            env,
            stdin=subprocess.DEVNULL if input is None else pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
        ) as program:
            try:
                out, err = program.communicate(input, timeout)
            except BaseException:
                program.kill()
                program.communicate(timeout=300)
                raise
        if check and program.returncode:
            words = " ".join(map(str, argv))[:200]
            said = (err.strip() or out.strip())[-600:]
            raise BedError(f"{self.name}: {words} ended with {program.returncode}: {said}")
        return subprocess.CompletedProcess(list(argv), program.returncode, out, err)

    def terminal(
        self,
        argv: Sequence[str | Path] = ("/bin/bash", "-l"),
        user: str = "root",
        env: Mapping[str, str] | None = None,
    ) -> Terminal:
        """Run a program on a terminal of the host, to be typed at."""
        whole = self.environment(user) | {"TERM": "dumb"} | dict(env or {})
        uid, _ = self.account(user)
        return Terminal(self.entering(argv, user), whole, self.path("/dev/pts/ptmx"), uid)

    def processes(self) -> list[Process]:
        """All that runs in the host, in its containers too, by pid."""
        names: dict[int, str] = {}
        for line in self.path("/etc/passwd").read_text().splitlines():
            fields = line.split(":")
            names.setdefault(int(fields[2]), fields[0])
        found = []
        for entry in self.path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(FileNotFoundError, ProcessLookupError):
                    argv = (entry / "cmdline").read_bytes().decode(errors="replace")
                    uid = entry.stat().st_uid
                    words = tuple(argv.rstrip("\0").split("\0"))
                    found.append(Process(int(entry.name), names.get(uid, str(uid)), words))
        return sorted(found, key=lambda process: process.pid)

    # --- network --------------------------------------------------------------------------

    def connect(self, host: str, port: int, timeout: float = 5) -> socket.socket:
        """A TCP connection from this host, to a host by its name or an IPv4 address.

        Raises:
            OSError: as `socket.connect` does; TimeoutError where nothing answers.
        """
        pid, address = self.must_be_on(), self.address_of(host)
        result: list[socket.socket | BaseException] = []

        def make() -> None:
            # A socket stays in the network that its thread was in; the thread ends here.
            try:
                kernel.setns(pid, "net")
                result.append(socket.create_connection((address, port), timeout))
            except BaseException as exc:
                result.append(exc)

        thread = threading.Thread(target=make, name=f"connect-{self.name}")
        thread.start()
        thread.join()
        made = result[0]
        if isinstance(made, BaseException):
            raise made
        return made

    def address_of(self, host: str) -> str:
        """By this host's /etc/hosts, as its own programs would find it."""
        if host.replace(".", "").isdigit():
            return host
        for line in self.path("/etc/hosts").read_text().splitlines():
            address, *names = line.split("#")[0].split() or [""]
            if host in names and ":" not in address:
                return address
        raise BedError(f"The host {self.name} knows no host {host}.")

    # --- power ----------------------------------------------------------------------------

    def kill(self) -> None:
        """Power it off at once, as a fault does: nobody is told. Its disk stays."""
        pid = self.must_be_on()
        # The kernel would close the connections of the killed programs in good order.
        network.unplug(self.bed.pid, self.machine)
        os.kill(pid, signal.SIGKILL)
        self.bed.wait_gone(pid)

    def start(self) -> None:
        """Power it on again and start its services; nothing happens where it is on."""
        self.bed.must_be_up()
        if not self.pid:
            self.bed.power_on([self])
            self.bed.start_services([self])
