"""What the fault tests do to a site, and where they look whether the truth is told."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from testbed import slurm
from testbed.hosts import Host, Process
from testbed.places import PROJECT
from tests.running import wait_for
from tests.sites.standing import ADMIN, CLUSTER, DATA, GATE_HOME, USER, Standing

SLURM = "/opt/slurm/bin"
MODE = "/run/sbatch-goes-wrong"
SBATCH = f"""\
#!/bin/sh
case $(cat {MODE} 2>/dev/null) in
hang) /usr/bin/sbatch "$@" >/dev/null; echo hang >{MODE}.done; sleep 60 ;;
fail) /usr/bin/sbatch "$@" >/dev/null; echo fail >{MODE}.done; exit 1 ;;
*) exec /usr/bin/sbatch "$@" ;;
esac
"""
#: Writes down that it was asked, for whoever waits for the gate to look again.
ASKED = "/run/squeue-was-asked"
SQUEUE = f"""\
#!/bin/sh
echo >>{ASKED}
exec /usr/bin/squeue "$@"
"""
#: Short: how often the gate looks, how long it waits for an answer, and when it believes that a
#: job is not there. `settle_s` is longer than the bed's MessageTimeout.
SCHEDULER = f"""\
name = "slurm"
bin = "{SLURM}"
poll_s = 0.5
timeout_s = 4
submit_timeout_s = 4
settle_s = 5
gone_after_s = 4
"""
PRESETS = """
[[presets]]
name = "minute"
title = "1 core, 1 minute"
cores = 1
memory_mb = 1000
max_walltime_s = 60

[[presets]]
name = "little"
title = "1 core, little memory"
cores = 1
memory_mb = 600
max_walltime_s = 3600

[[presets]]
name = "nchc-n1"
title = "The first node"
cores = 1
memory_mb = 1000
max_walltime_s = 3600
flags = ["--nodelist=nchc-n1"]

[[presets]]
name = "nchc-n2"
title = "The second node"
cores = 1
memory_mb = 1000
max_walltime_s = 3600
flags = ["--nodelist=nchc-n2"]
"""


class Breakable(Standing):
    """A site whose faults can be caused: Slurm's programs with an `sbatch` that can be made to
    fail, and resources that a job cannot live with."""

    def root_prepares(self, *, account: str = "ada") -> None:
        super().root_prepares(account=account)
        root = self.login.run
        root(["install", "-d", "-m", "755", SLURM])
        for name in ("scancel", "sacct", "scontrol", "sinfo"):
            root(["ln", "-sf", f"/usr/bin/{name}", f"{SLURM}/{name}"])
        for name, script in (("sbatch", SBATCH), ("squeue", SQUEUE)):
            root(["tee", f"{SLURM}/{name}"], input=script)
            root(["chmod", "755", f"{SLURM}/{name}"])
        root(["install", "-m", "666", "/dev/null", ASKED])

    def policy(self, *, more: str = "", max_live: int = 8) -> str:
        plain = super().policy(more=more + PRESETS, max_live=max_live)
        changed = plain.replace('name = "slurm"\n', SCHEDULER)
        assert changed != plain
        return changed

    def asked_again(self, times: int = 3) -> None:
        """Wait until the gate has asked Slurm so many times more. The answer to all but the last
        has been looked at then."""
        file = self.login.path(ASKED)
        before = file.stat().st_size
        wait_for("the gate to ask Slurm", lambda: file.stat().st_size >= before + times)


def processes(host: Host, user: str, *words: str) -> list[Process]:
    """Those of an account whose command line has all the words."""
    return [
        process
        for process in host.processes()
        if process.user == user and all(word in " ".join(process.argv) for word in words)
    ]


def signal(host: Host, name: str, found: list[Process]) -> None:
    """Send a signal to processes that must be there."""
    assert found, host.processes()
    host.run(["kill", f"-{name}", *(str(process.pid) for process in found)])


def master(site: Standing) -> list[Process]:
    """The portal's connection to the gate."""
    return processes(site.portal, "scenebridge", "ssh ", " -M ")


def gate(site: Standing) -> list[Process]:
    return processes(site.login, USER, "lib.gate serve")


def outer(site: Standing) -> list[Process]:
    """Ada's ssh that carries the tunnel."""
    return processes(site.portal, "ada", "ssh ", f"{CLUSTER}.sock:")


def supervisor(site: Standing) -> list[Process]:
    return processes(site.portal, "ada", "lib.tunnels.outer.supervisor")


def jobs_of(site: Standing, session: str) -> list[str]:
    """Every job that the scheduler ever had for a session, by the controller's own memory."""
    shown = site.login.run(["scontrol", "-o", "show", "job"], check=False).stdout
    found = {line.split()[0] for line in shown.splitlines() if f"JobName=sb-{session}-" in line}
    ended = site.login.path("/var/log/slurm/jobcomp.log")
    for line in ended.read_text().splitlines() if ended.exists() else []:
        if f" Name=sb-{session}-" in line:
            found.add(line.split()[0])
    return sorted(found)


def cluster(api: httpx.Client) -> dict[str, Any]:
    """The cluster's card."""
    return next(c for c in api.get("/api/clusters").json() if c["id"] == CLUSTER)


def session(api: httpx.Client, session_id: str) -> dict[str, Any]:
    """The session's card."""
    found: dict[str, Any] = api.get(f"/api/sessions/{session_id}").json()
    return found


def sign_in_link(site: Standing) -> str:
    """A fresh one for the portal's owner."""
    return site.as_portal([*ADMIN, "link", "--data", DATA]).split()[0]


def moment(text: str) -> float:
    """A time of the API, in Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


def unreachable(
    api: httpx.Client, *words: str, since: float = 0.0, timeout_s: float = 300.0
) -> dict[str, Any]:
    """Wait until the cluster's card says that it cannot be asked, for a reason with these
    words; and since when, which must be after `since`."""

    def ask() -> dict[str, Any] | None:
        card = cluster(api)
        silent = card["reachability"] == "UNKNOWN"
        return card if silent and all(w in card["unreachable_reason"] for w in words) else None

    try:
        card: dict[str, Any] = wait_for(f"{words}", ask, timeout_s=timeout_s)
    except AssertionError:
        card = cluster(api)
        said = [card[name] for name in ("reachability", "unreachable_reason", "mend")]
        raise AssertionError(f"{words} is not said: {said}") from None
    begun = moment(card["unreachable_since"])
    assert since - 1 <= begun <= time.time(), card
    return card


def mends(card: dict[str, Any]) -> str:
    """For whom, and what to do."""
    assert card["mend"], card
    return " | ".join(f"{who}: {what}" for who, what in card["mend"])


def ready(api: httpx.Client, session_id: str, timeout_s: float = 300.0) -> dict[str, Any]:
    """Wait until the session is READY and its cluster can be asked."""

    def ask() -> dict[str, Any] | None:
        found = session(api, session_id)
        assert found["state"] != "ENDED", found
        good = found["state"] == "READY" and found["reachability"] == "REACHABLE"
        return found if good else None

    found: dict[str, Any] = wait_for("READY and reachable", ask, timeout_s=timeout_s)
    return found


def ended(api: httpx.Client, session_id: str, timeout_s: float = 300.0) -> dict[str, Any]:
    """Wait until the session has ended."""

    def ask() -> dict[str, Any] | None:
        found = session(api, session_id)
        return found if found["state"] == "ENDED" else None

    found: dict[str, Any] = wait_for("ENDED", ask, timeout_s=timeout_s)
    return found


def says(api: httpx.Client, session_id: str, state: str, words: str) -> None:
    """Wait until the session's card is in that state for a reason with these words."""

    def ask() -> bool:
        found = session(api, session_id)
        assert found["state"] != "ENDED", found
        return found["state"] == state and words in found["reason"]

    try:
        wait_for(words, ask)
    except AssertionError:
        raise AssertionError(f"{state}, {words}: {session(api, session_id)}") from None


def node_of(site: Standing, session_id: str) -> str:
    """The node that a session's job has."""
    shown = site.login.run(["squeue", "-h", "-t", "R", "-o", "%j %N"]).stdout
    return next(line.split()[1] for line in shown.splitlines() if f"sb-{session_id}-" in line)


def running_code(site: Standing) -> str:
    """The version that the gate of this moment runs from."""
    return str(json.loads((site.gate_home / "gate.json").read_text())["code"])


def other_version(site: Standing, name: str, *, version: str) -> str:
    """The project in another version on the portal host, as root installs it; its folder."""
    tree = f"/opt/{name}"
    parts = [f"{PROJECT}/{part}" for part in ("admin.py", "lib", "modules", "modulekit")]
    site.portal.run(["install", "-d", "-m", "755", tree])
    site.portal.run(["cp", "-r", "--no-preserve=ownership", *parts, f"{PROJECT}/catalogs", tree])
    site.portal.run(["chmod", "-R", "go-w", tree])
    init = site.portal.path(f"{tree}/lib/gate/__init__.py")
    _edit(init, r'VERSION = ".*"', f'VERSION = "{version}"')
    return tree


def spoil_apptainer(node: Host, said: str) -> None:
    """It says that on its standard error and ends, until it is unmounted."""
    script = f"#!/bin/sh\necho '{said}' >&2\nexit 255\n"
    node.run(["tee", "/run/spoilt"], input=script)
    node.run(["chmod", "755", "/run/spoilt"])
    node.run(["mount", "--bind", "/run/spoilt", "/usr/bin/apptainer"])


def _edit(file: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, file.read_text())
    assert count == 1, (file, count)
    file.write_text(text)


@contextlib.contextmanager
def sbatch(site: Standing, how: str) -> Iterator[Callable[[], bool]]:
    """Make submits go wrong: `hang` or `fail` after the job was taken. Gives whether one did."""
    done = site.login.path(f"{MODE}.done")
    site.login.run(["install", "-m", "666", "/dev/null", f"{MODE}.done"])
    site.login.run(["tee", MODE], input=how)
    try:
        yield lambda: how in done.read_text()
    finally:
        site.login.run(["rm", "-f", MODE])


@contextlib.contextmanager
def stopped(host: Host, found: list[Process]) -> Iterator[None]:
    """Processes that hang: they neither end nor answer."""
    signal(host, "STOP", found)
    try:
        yield
    finally:
        host.run(["kill", "-CONT", *(str(process.pid) for process in found)], check=False)


@contextlib.contextmanager
def full_disk(site: Standing) -> Iterator[None]:
    """Where the gate keeps its sessions nothing more can be stored.

    A small file system lies there meanwhile, with a copy of what was there (kernels need not
    have quotas for tmpfs). The nodes have the real folder.
    """
    root, folder = site.login.run, f"/home/{USER}/{GATE_HOME}/sessions"
    root(["install", "-d", "-m", "700", "/run/full"])
    root(["mount", "-t", "tmpfs", "-o", "size=32M,mode=700", "full", "/run/full"])
    try:
        root(["cp", "-a", f"{folder}/.", "/run/full"])
        filler = root(["dd", "if=/dev/zero", "of=/run/full/.full", "bs=4k"], USER, check=False)
        assert "No space left" in filler.stderr, filler
        root(["mount", "--bind", "/run/full", folder])
        try:
            yield
        finally:
            root(["umount", folder])
    finally:
        root(["umount", "/run/full"])


def restart_slurm(site: Standing) -> None:
    """End its daemons and start them again, as an update of its packages does."""
    for host in (site.login, *site.nodes):
        daemon = "slurmctld" if host is site.login else "slurmd"
        signal(host, "TERM", _daemons(host, daemon))
        wait_for(f"no {daemon}", functools.partial(_none, host, daemon))
        slurm.start(host, daemon)
    slurm.wait_ready(site.login, site.nodes)


def _daemons(host: Host, name: str) -> list[Process]:
    return [process for process in host.processes() if process.argv[0].endswith(name)]


def _none(host: Host, name: str) -> bool:
    return not _daemons(host, name)
