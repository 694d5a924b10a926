"""A whole bed: up, down, and what is true of it in between.

Its folder holds `bed.json` (who its process is) and one file per host that was started. The
rest, disks and networks, belongs to that process (`testbed.init`) and goes with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from testbed import accounts, image, install, kernel, network, slurm
from testbed.errors import BedError
from testbed.hosts import Host
from testbed.places import LIVE
from testbed.sites import WAN, Machine, Site, every_site
from testbed.sites.admin import AGENT

DEFAULT_STATE = Path("/run/scenebridge-testbed")
VARIABLE = "SCENEBRIDGE_TESTBED"
CHECKOUT = Path(__file__).resolve().parent.parent
GONE_S = 300
#: Address resolution gives up after three seconds, and begins anew with the next connection.
REACHED_S = 300


class Bed:
    """The bed of one folder.

    Args:
        state: its folder; by default what SCENEBRIDGE_TESTBED names, else /run/...
        sites: what stands in it; by default all there are.
        checkout: the project that its hosts show.
    """

    def __init__(
        self,
        state: Path | str | None = None,
        *,
        sites: Sequence[Site] | None = None,
        checkout: Path = CHECKOUT,
    ) -> None:
        named = state or os.environ.get(VARIABLE) or DEFAULT_STATE
        self.state = Path(named).resolve()
        self.sites = list(every_site() if sites is None else sites)
        self.checkout = checkout
        self.hosts = {
            machine.name: Host(self, site, machine)
            for site in self.sites
            for machine in site.machines
        }

    def host(self, name: str) -> Host:
        if name in self.hosts:
            return self.hosts[name]
        raise BedError(f"There is no host {name}; there are {', '.join(self.hosts)}.")

    # --- what is running --------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The bed's process; 0 where it is down."""
        return self._recorded(self.state / "bed.json")

    @property
    def complete(self) -> bool:
        """Whether `up` went through."""
        return bool(self.pid) and (self.state / "complete").exists()

    def must_be_up(self) -> int:
        if pid := self.pid:
            return pid
        raise BedError("The test-bed is down; bring it up: python3 -m testbed up")

    def host_pid(self, name: str) -> int:
        return self._recorded(self.state / "hosts" / f"{name}.json")

    def _recorded(self, file: Path) -> int:
        try:
            noted = json.loads(file.read_text())
        except (OSError, ValueError):
            return 0
        pid = int(noted["pid"])
        return pid if kernel.start_time(pid) == noted["started"] else 0

    def _record(self, file: Path, pid: int) -> None:
        file.parent.mkdir(exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({"pid": pid, "started": kernel.start_time(pid)}))
        fresh.replace(file)

    def wait_gone(self, pid: int) -> None:
        """Until a killed process 1 and all below it are gone."""
        end = time.monotonic() + GONE_S
        while kernel.start_time(pid):
            if time.monotonic() > end:
                raise BedError(f"Process {pid} was killed and is still there after {GONE_S} s.")
            time.sleep(0.02)

    # --- up and down ------------------------------------------------------------------------

    def up(self, say: Callable[[str], None] = lambda _: None) -> bool:
        """Bring the bed, or those of its hosts that are off, up.

        Returns:
            whether there was anything to do.
        Raises:
            BedError: something is missing, or a part did not come up.
        """
        install.check()
        if unfit := set(str(self.state)) & set(",:\\ "):
            # They separate the folders in the options of overlayfs.
            raise BedError(f"The folder {self.state} may not have {unfit} in its name.")
        with self._alone():
            if self.complete:
                off = [host for host in self.hosts.values() if not host.pid]
                if off:
                    self.power_on(off)
                    self.start_services(off)
                return bool(off)
            self._remove()
            before = os.umask(0o022)
            try:
                self._create(say)
            finally:
                os.umask(before)
        return True

    def down(self) -> bool:
        """End everything of the bed, a half-made one too; False where there was nothing."""
        if not self.state.exists() and not self._strays():
            return False
        with self._alone():
            self._remove()
            shutil.rmtree(self.state)
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep two commands from changing the same bed at the same time."""
        while True:
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self.state, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                # A `down` that was waited for has removed the folder that this one opened.
                if self.state.exists() and os.path.samestat(os.fstat(folder), self.state.stat()):
                    yield
                    return
            finally:
                os.close(folder)

    def _strays(self) -> list[int]:
        """Processes of this bed by their argv: an `up` may have died before it noted them."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                except OSError:
                    continue
                if "testbed.init" in words and str(self.state) in words:
                    found.append(int(entry.name))
        return found

    def _remove(self) -> None:
        while pids := {self.pid, *self._strays()} - {0}:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in pids:
                self.wait_gone(pid)
        for entry in self.state.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _create(self, say: Callable[[str], None]) -> None:
        say("Making the networks and the disks")
        pid = self._init("bed", str(self.state), str(self.checkout))
        self._record(self.state / "bed.json", pid)
        networks = {name for host in self.hosts.values() for name in host.machine.links}
        network.make_bridges(pid, sorted(networks))
        self._write_disks()
        say(f"Starting {len(self.hosts)} hosts")
        self.power_on(self.hosts.values())
        say("Starting their services")
        self.start_services(self.hosts.values())
        (self.state / "complete").touch()

    def _init(self, *arguments: str) -> int:
        """Start a process 1; gives its pid as the machine counts."""
        log = self.state / "log"
        with log.open("a") as errors:
            started = subprocess.run(
                [sys.executable, "-P", "-m", "testbed.init", *arguments],
                cwd=CHECKOUT,
                env={**network.PATH, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=300,
                start_new_session=True,
            )
        if started.returncode:
            last = (log.read_text().strip().splitlines() or ["no reason was given"])[-1]
            raise BedError(f"{' '.join(arguments[:1])} could not be started: {last}")
        return int(started.stdout)

    # --- disks ------------------------------------------------------------------------------

    @property
    def live(self) -> Path:
        """The bed's own tmpfs, as seen from outside."""
        return Path(f"/proc/{self.pid}/root") / str(self.state).lstrip("/") / LIVE

    def _write_disks(self) -> None:
        """Everything the hosts have of their own, before any of them starts."""
        disks = {name: self.live / "disks" / name / "upper" for name in self.hosts}
        keys = {}
        for name, disk in disks.items():
            keys[name] = accounts.make_key(disk / "etc/ssh/ssh_host_ed25519_key", name)
        private = self.state / "key"
        public = accounts.make_key(private, "ada@admin")
        known = accounts.known_hosts(keys, self.sites)
        for site in self.sites:
            shared = self.live / "homes" / site.name
            if site.shared_home:
                shared.mkdir(mode=0o755)
                accounts.write_homes(shared, site.people, public)
            for machine in site.machines:
                disk = disks[machine.name]
                accounts.write_accounts(disk / "etc", site.people)
                accounts.write_names(disk / "etc", machine, site, self.sites)
                accounts.write_ssh(disk / "etc", site, known)
                if not site.shared_home:
                    accounts.write_homes(disk / "home", site.people, public)
            if site.kind == "slurm":
                slurm.prepare(site, disks)
            for person in site.people:
                if AGENT in person.environment.values():
                    folder = disks[site.machines[0].name] / "home" / person.name
                    for suffix in ("", ".pub"):
                        shutil.move(f"{private}{suffix}", f"{folder / accounts.KEY}{suffix}")
                    accounts.give(folder, person)

    # --- power ------------------------------------------------------------------------------

    def power_on(self, hosts: Iterable[Host]) -> None:
        """Start hosts that are off and plug them in; without their services."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._power_on, hosts))

    def _power_on(self, host: Host) -> None:
        machine, site = host.machine, host.site
        home = site.name if site.shared_home else ""
        bed = self.must_be_up()
        pid = self._init("host", str(bed), str(self.state), machine.name, home, str(machine.gpus))
        self._record(self.state / "hosts" / f"{machine.name}.json", pid)
        network.plug_in(bed, pid, machine, self.wan_addresses())

    def wan_addresses(self) -> dict[str, str]:
        links = {name: host.machine.links for name, host in self.hosts.items()}
        return {name: found[WAN] for name, found in links.items() if WAN in found}

    def start_services(self, hosts: Iterable[Host]) -> None:
        """Start what runs on hosts that have just been powered on, and wait for it."""
        chosen = list(hosts)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._start_services, chosen))
        for site in self.sites:
            if site.kind == "slurm" and any(host.site == site for host in chosen):
                login = next(m for m in site.machines if "slurmctld" in m.services)
                host = self.hosts[login.name]
                if not host.pid:
                    continue
                if not image.checksum(host):
                    image.build(host)
                # Others may be cut off or ill, by the wish of a test.
                slurm.wait_ready(host, self.hosts.values() if host in chosen else chosen)
        self._wait_reached(chosen)

    def _wait_reached(self, chosen: Iterable[Host]) -> None:
        """Until every host that may connect to these, and is not cut off, does: for some seconds
        the others remember that nobody was there ("No route to host").

        Raises:
            BedError: one does not within `REACHED_S`.
        """
        cut = network.cut_cables(self.must_be_up())
        for host in chosen:
            for name, address in host.machine.links.items():
                for other in self.hosts.values():
                    pair = (host.machine, other.machine)
                    linked = name in other.machine.links and other is not host and other.pid
                    if not linked or any(network.cable(end, name) in cut for end in pair):
                        continue
                    if name != WAN or host.machine.takes_ssh_of(other.name):
                        self._wait_connected(other, address)

    def _wait_connected(self, host: Host, address: str) -> None:
        end = time.monotonic() + REACHED_S
        while True:
            try:
                host.connect(address, 22, timeout=1).close()
                return
            except ConnectionRefusedError:  # it is there, without an sshd
                return
            except OSError as exc:
                if time.monotonic() > end:
                    raise BedError(f"{host.name} does not reach {address}: {exc}.") from exc
                time.sleep(0.05)

    def _start_services(self, host: Host) -> None:
        for service in host.machine.services:
            if service == "sshd":
                host.run(["/usr/sbin/sshd", "-E", "/var/log/sshd.log"])
            elif service == "agent":
                self._start_agent(host)
            else:
                slurm.start(host, service)

    def _start_agent(self, host: Host) -> None:
        person = host.site.people[0]
        folder = str(Path(AGENT).parent)
        host.run(["install", "-d", "-m", "700", "-o", person.name, folder])
        host.run(["ssh-agent", "-a", AGENT], person.name)
        host.run(["ssh-add", "-q", str(accounts.KEY)], person.name)

    # --- cables -----------------------------------------------------------------------------

    def cut(self, link: str) -> None:
        """Cut a link: "HOST:NETWORK", or "HOST" for all that it has."""
        self._set(link, up=False)

    def heal(self, link: str) -> None:
        self._set(link, up=True)

    def _set(self, link: str, *, up: bool) -> None:
        name, _, wanted = link.partition(":")
        machine: Machine = self.host(name).machine
        networks = [wanted] if wanted else list(machine.links)
        if unknown := set(networks) - set(machine.links):
            raise BedError(f"{name} has no link to {', '.join(unknown)}: {list(machine.links)}")
        self.host(name).must_be_on()
        network.set_cables(self.must_be_up(), machine, networks, up=up)
