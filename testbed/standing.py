"""A portal and a Slurm site that are set up as docs/admin.md says, by the commands it names.

For `python -m testbed portal`, the site tests and `benchmarks`: everything is done by the accounts
that do it at a real institute, root's part by root, the administrator's by ada with a forwarded
agent. It needs the project's own Python, unlike the rest of the test-bed.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from lib.config.settings import PROJECT as CHECKOUT
from lib.gate_deploy.wheels import bring, target_of
from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.samples import write_synthetic
from lib.scenes.synthetic import LandsatSpec
from lib.server.sample_scenes import mark_of
from testbed.bed import Bed
from testbed.errors import BedError
from testbed.hosts import Host, Started
from testbed.image import BINDS, checksum
from testbed.places import IMAGE, PROJECT
from testbed.relay import relay
from testbed.terminal import Terminal

CLUSTER = "nchc"
GATE_PORT = 22022
DATA = "/home/scenebridge/data"
PYTHON = f"{PROJECT}/.venv/bin/python"
ADMIN = (PYTHON, f"{PROJECT}/admin.py")
SITE_FOLDER = "/etc/scenebridge"
TUNNELS = "/var/lib/scenebridge-tunnels"
GATE_HOME = f".scenebridge/{CLUSTER}"
USER = "u1001"
SCENE = LandsatSpec(130.60, 31.50, 112, 38, date(2023, 12, 13), 3, sea=0.35, fires=12, size=512)
_READY = re.compile(r"SceneBridge is ready: (http://localhost:\d+\S*)")
_PROMPT = "ada-types> "

CLUSTER_FILE = """\
id = "{id}"
title = "Taiwania (test-bed)"
institute = "NCHC"
groups = ["everyone"]

[login]
host = "nchc-login"
user = "{user}"
host_keys = ["{login_key}"]

[jump]
host = "nchc-jump"
user = "{user}"
host_keys = ["{jump_key}"]

[gate]
port = {port}
host_key = "{host_key}"
home = "{home}"
"""

POLICY = """\
format = 1
cluster = "{id}"
portal_origins = ["http://localhost:*"]
data_paths = ["/home/data"]
https_hosts = []
users = ["*"]

[listen]
port = {port}

[scheduler]
name = "slurm"

[runtime]
name = "apptainer"
binds = [{binds}]
code = "{code}"
python = "{python}"

[limits]
max_live = {max_live}
max_disk_mb = 500

[[modules]]
id = "active-fire"
version = "{active_fire}"
entry = "modules.active_fire"
notebook = "modules/active_fire/notebook.ipynb"
image = "{image}"
sha256 = "{sha256}"

[[modules]]
id = "offshore-objects"
version = "{offshore_objects}"
entry = "modules.offshore_objects"
notebook = "modules/offshore_objects/notebook.ipynb"
image = "{image}"
sha256 = "{sha256}"

[[presets]]
name = "small"
title = "1 core, 1 GB"
cores = 1
memory_mb = 1000
max_walltime_s = 3600
default_walltime_s = 1800

[[presets]]
name = "gpu"
title = "2 cores, 1 GPU"
cores = 2
memory_mb = 2000
gpus = 1
max_walltime_s = 3600
default_walltime_s = 1800
flags = ["--partition=gpu"]
{more}"""


def module_version(name: str) -> str:
    """As the module's own description says."""
    described = tomllib.loads((CHECKOUT / "modules" / name / "module.toml").read_text("utf-8"))
    return str(described["version"])


@dataclass
class Standing:
    """One bed with a working portal and site.

    Attributes:
        wheels: a folder with the packages that a gate is deployed with.
        port: of the portal, inside its host and, by a relay, on this machine's loopback; that of
            the notebooks is the next one.
    """

    bed: Bed
    wheels: Path
    port: int
    process: Started | None = None
    link: str = ""
    output: list[str] = field(default_factory=list)
    host_key: str = ""

    @property
    def portal(self) -> Host:
        return self.bed.host("portal")

    @property
    def login(self) -> Host:
        return self.bed.host("nchc-login")

    @property
    def nodes(self) -> tuple[Host, Host]:
        return self.bed.host("nchc-n1"), self.bed.host("nchc-n2")

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def gate_home(self) -> Path:
        """The gate's folder as seen from outside."""
        return self.login.path(f"/home/{USER}/{GATE_HOME}")

    # --- root of the portal host ------------------------------------------------------------

    def root_prepares(self, *, account: str = "ada") -> None:
        """Cluster file, tunnel folder; the portal's account owns neither."""
        self.write_cluster_file()
        self.portal.run([*ADMIN, "tunnel", "admit", account, "--portal-group", "scenebridge"])

    def write_cluster_file(self, **changes: str) -> None:
        keys = {name: self.host_key_of(name) for name in ("nchc-login", "nchc-jump")}
        values: dict[str, object] = {
            "id": CLUSTER,
            "user": USER,
            "login_key": keys["nchc-login"],
            "jump_key": keys["nchc-jump"],
            "port": GATE_PORT,
            "host_key": self.host_key,
            "home": GATE_HOME,
            **changes,
        }
        folder = f"{SITE_FOLDER}/clusters"
        self.portal.run(["install", "-d", "-m", "755", folder])
        text = CLUSTER_FILE.format(**values)
        self.portal.run(["tee", f"{folder}/{CLUSTER}.toml"], input=text)

    def host_key_of(self, name: str) -> str:
        """The public host key of a host, as a cluster file pins it."""
        text = self.bed.host(name).run(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]).stdout
        return " ".join(text.split()[:2])

    # --- the portal's account -----------------------------------------------------------------

    def portal_key(self) -> str:
        """The public half of the portal's restricted key, made when it is missing."""
        told = self.as_portal([*ADMIN, "gate", "key", CLUSTER, "--data", DATA])
        return _found(r"ssh-ed25519 \S+", told)[0]

    def as_portal(self, argv: list[str] | tuple[str, ...], **options: Any) -> str:
        """Run a program in the portal's account; what it printed."""
        return self.portal.run(argv, "scenebridge", **options).stdout

    def start_portal(self, timeout_s: float = 300.0) -> str:
        """As its service does; the one-time sign-in link."""
        argv = [PYTHON, "-P", "-m", "lib.server.main", "--data", DATA]
        self.process = self.portal.popen(
            [*argv, "--port", str(self.port), "--no-browser"],
            "scenebridge",
            {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ready = threading.Event()
        threading.Thread(target=self._listen, args=(self.process, ready), daemon=True).start()
        if not ready.wait(timeout_s):
            raise BedError("the portal did not start:\n" + "\n".join(self.output))
        return self.link

    def _listen(self, process: Started, ready: threading.Event) -> None:
        if process.stdout is None:
            return
        with process.stdout as lines:
            for line in lines:
                self.output.append(line.rstrip())
                found = _READY.search(line)
                if found:
                    self.link = found[1]
                    ready.set()

    def stop_portal(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(300)

    # --- the administrator --------------------------------------------------------------------

    @contextlib.contextmanager
    def ada(self) -> Iterator[Terminal]:
        """Ada at her own computer, logged in to the portal host with her agent forwarded."""
        ssh = ["ssh", "-A", "-t", "portal", "bash --norc --noprofile"]
        with self.bed.host("admin").terminal(ssh, "ada") as terminal:
            terminal.send(f"stty -echo cols 4000; PS1='ada-''types> '; cd {PROJECT}")
            terminal.read_until(_PROMPT, 300)
            yield terminal
            terminal.send("exit")
            terminal.wait(300)

    def types(
        self,
        terminal: Terminal,
        *command: str,
        timeout_s: float = 300.0,
        tree: str | Path = PROJECT,
    ) -> str:
        """Type a command of `admin.py` and wait for the prompt; what it printed.

        Args:
            tree: where the project lies.
        """
        begun = len(terminal.seen)
        line = shlex.join([PYTHON, f"{tree}/admin.py", *command])
        terminal.send(f'{line}; echo "[code $?]"')
        terminal.read_until(r"\[code \d+\]", timeout_s)
        terminal.read_until(_PROMPT)
        return terminal.seen[begun:]

    def deploy(self) -> str:
        """The gate, by ada from the portal host: shipped, with its policy, and running."""
        key = self.portal_key()
        wheels = self.portal.path("/home/ada/wheels")
        if not wheels.exists():
            shutil.copytree(self.wheels, wheels)
        self.portal.path("/home/ada/policy.toml").write_text(self.policy())
        with self.ada() as terminal:
            said = self.types(
                terminal,
                *("gate", "deploy", CLUSTER, "--portal-key", key, "--wheels", "/home/ada/wheels"),
                *("--scheduler", "slurm", "--runtime", "apptainer"),
                timeout_s=300,
            )
            self.host_key = _found(r'host_key = "(ssh-ed25519 \S+)"', said)[1]
            said += self.types(
                terminal, "gate", "policy", CLUSTER, "--set", "/home/ada/policy.toml", timeout_s=300
            )
            _found(r"\[code 0\]", said)
        self.write_cluster_file()
        return said

    def policy(self, *, more: str = "", max_live: int = 8) -> str:
        return POLICY.format(
            id=CLUSTER,
            port=GATE_PORT,
            binds=", ".join(f'"{path}"' for path in BINDS),
            python=PYTHON,
            code=PROJECT,
            image=IMAGE,
            sha256=checksum(self.login),
            active_fire=module_version("active_fire"),
            offshore_objects=module_version("offshore_objects"),
            max_live=max_live,
            more=more,
        )

    def open_tunnel(self, *options: str) -> str:
        """Ada logs in, opens the tunnel, logs out; what she read."""
        with self.ada() as terminal:
            said = self.types(
                terminal, "tunnel", "up", CLUSTER, *(options or ("--person", "owner"))
            )
        _found(r"\[code 0\]", said)
        return said

    def close_tunnel(self) -> str:
        with self.ada() as terminal:
            return self.types(terminal, "tunnel", "down", CLUSTER)

    def take_away(self) -> None:
        """The gate with its jobs, and the tunnel; what is not there any more is no fault."""
        with self.ada() as terminal:
            self.types(terminal, "gate", "stop", CLUSTER, "--jobs")
            self.types(terminal, "tunnel", "down", CLUSTER)

    # --- what stands --------------------------------------------------------------------------

    def plant_scene(self) -> str:
        """A synthetic Landsat scene with fires in the portal's catalog; its id. No samples: the
        bed's hosts have no way to the internet."""
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            product = write_synthetic(Path(folder), SCENE)
            scene = LocalCatalog(data / "scenes").add(product, synthetic=True)
            mark_of(data).parent.mkdir(parents=True)
            mark_of(data).touch()
            self.bring(data)
        return str(scene.id)

    def bring(self, data: Path) -> None:
        """Make what is in this folder the portal's, on its host."""
        shutil.copytree(data, self.portal.path(DATA), dirs_exist_ok=True)
        self.portal.run(["chown", "-R", "scenebridge:scenebridge", DATA])
        self.portal.run(["chmod", "700", DATA])

    def reachable(self, timeout_s: float = 300.0) -> dict[str, Any]:
        """Wait until the portal reaches the cluster; the cluster as the API shows it."""
        token = self.as_portal([*ADMIN, "token", "--data", DATA]).split()[-1]
        until = time.monotonic() + timeout_s
        while True:
            with contextlib.closing(HTTPConnection("localhost", self.port, timeout=300)) as line:
                line.request("GET", "/api/clusters", headers={"Authorization": f"Bearer {token}"})
                clusters: list[dict[str, Any]] = json.load(line.getresponse())
            for cluster in clusters:
                if cluster["id"] == CLUSTER and cluster["reachability"] == "REACHABLE":
                    return cluster
            if time.monotonic() > until:
                raise BedError(f"the portal does not reach the cluster: {clusters}")
            time.sleep(0.2)


def _found(pattern: str, said: str) -> re.Match[str]:
    found = re.search(pattern, said)
    if found is None:
        raise BedError(f"a command did not do what it should:\n{said}")
    return found


@contextlib.contextmanager
def standing(it: Standing) -> Iterator[Standing]:
    """Set everything up on a bed that is up, with a portal that runs and a relay to it."""
    it.plant_scene()
    it.root_prepares()
    it.deploy()
    it.open_tunnel()
    with relay(it.portal, it.port), relay(it.portal, it.port + 1):
        it.start_portal()
        try:
            it.reachable()
            yield it
        finally:
            it.stop_portal()


@contextlib.contextmanager
def shown(bed: Bed, port: int, say: Callable[[str], None]) -> Iterator[Standing]:
    """A portal in the bed, for the browser of this machine; the bed is brought up for it.

    At the end nothing of it is left: where the bed was up before, it stays up, without the portal,
    its gate and what that runs.
    """
    was_up = bool(bed.pid)
    bed.up(say)
    try:
        with tempfile.TemporaryDirectory() as folder:
            say("The gate's packages are fetched")
            it = Standing(bed, fetch_wheels(Path(folder) / "wheels"), port)
            say("Portal, gate and tunnel are set up as docs/admin.md says")
            try:
                with standing(it):
                    yield it
            finally:
                if was_up:
                    it.take_away()
    finally:
        if not was_up:
            bed.down()


def fetch_wheels(into: Path) -> Path:
    """The wheels that a deployment ships, for the Python of the bed's hosts, as a folder."""
    target = target_of(
        sys.version_info[:3], platform.machine(), platform.system(), platform.libc_ver()
    )
    bring(target, into)
    return into
