"""A portal and a Slurm site that are set up as docs/admin.md says, by the commands it names.

Used by the site tests and by `benchmarks`: everything is done by the accounts that do it at a
real institute, root's part by root, the administrator's by ada with a forwarded agent.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx

from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.samples import write_synthetic
from lib.scenes.synthetic import LandsatSpec
from testbed import Bed
from testbed.hosts import Host, Started
from testbed.image import BINDS, checksum
from testbed.places import IMAGE, PROJECT
from testbed.relay import relay
from testbed.terminal import Terminal
from tests.running import NO_TLS, SHORT_IDLE, first_start_is_over, free_port, wait_for

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
    import tomllib

    from lib.config.settings import PROJECT as CHECKOUT

    described = tomllib.loads((CHECKOUT / "modules" / name / "module.toml").read_text("utf-8"))
    return str(described["version"])


@dataclass
class Standing:
    """One bed with a working portal and site.

    Attributes:
        port: of the portal, inside its host and, by a relay, on this machine's loopback.
    """

    bed: Bed
    wheels: Path
    port: int = field(default_factory=free_port)
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
        found = re.search(r"ssh-ed25519 \S+", told)
        assert found, told
        return found[0]

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
            raise AssertionError("the portal did not start:\n" + "\n".join(self.output))
        return self.link

    def _listen(self, process: Started, ready: threading.Event) -> None:
        assert process.stdout is not None
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

    def kill_portal(self) -> None:
        """SIGKILL to the portal alone, as the out-of-memory killer does."""
        self.portal.run(
            ["pkill", "-KILL", "-u", "scenebridge", "-f", "lib.server.main"], check=False
        )
        assert self.process is not None
        self.process.wait(300)

    def api(self) -> httpx.Client:
        """A client with a fresh token of the portal's owner."""
        token = self.as_portal([*ADMIN, "token", "--data", DATA]).split()[-1]
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(
            base_url=self.origin, headers=headers, timeout=300, verify=NO_TLS, limits=SHORT_IDLE
        )

    # --- the administrator --------------------------------------------------------------------

    @contextlib.contextmanager
    def ada(self) -> Iterator[Terminal]:
        """Ada at her own computer, logged in to the portal host with her agent forwarded."""
        ssh = ["ssh", "-A", "-t", "portal", "bash --norc --noprofile"]
        with self.bed.host("admin").terminal(ssh, "ada") as terminal:
            terminal.send(f"stty -echo cols 4000; PS1='ada-''types> '; cd {PROJECT}")
            terminal.read_until(_PROMPT, 20)
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
        terminal.read_until(_PROMPT, 10)
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
            found = re.search(r'host_key = "(ssh-ed25519 \S+)"', said)
            assert found, said
            self.host_key = found[1]
            said += self.types(
                terminal, "gate", "policy", CLUSTER, "--set", "/home/ada/policy.toml", timeout_s=60
            )
            assert "[code 0]" in said, said
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
        assert "[code 0]" in said, said
        return said

    def close_tunnel(self) -> str:
        with self.ada() as terminal:
            return self.types(terminal, "tunnel", "down", CLUSTER)

    # --- what stands --------------------------------------------------------------------------

    def plant_scene(self) -> str:
        """Two synthetic Landsat scenes in the portal's catalog, of which one is worth
        searching; its id. No samples."""
        from tests.crowd import LANDSAT
        from tests.crowd import SCENE as PLAIN
        from tests.pages.sample_portal import plant_scene

        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            first_start_is_over(data)
            plant_scene(data, PLAIN, bands=("coastal", *LANDSAT))
            product = write_synthetic(Path(folder), SCENE)
            scene = LocalCatalog(data / "scenes").add(product, synthetic=True)
            shutil.copytree(data, self.portal.path(DATA), dirs_exist_ok=True)
        self.portal.run(["chown", "-R", "scenebridge:scenebridge", DATA])
        self.portal.run(["chmod", "700", DATA])
        return str(scene.id)

    def reachable(self) -> dict[str, Any]:
        """Wait until the portal reaches the cluster; the cluster as the API shows it."""
        with self.api() as api:

            def ask() -> dict[str, Any] | None:
                found = [c for c in api.get("/api/clusters").json() if c["id"] == CLUSTER]
                return found[0] if found and found[0]["reachability"] == "REACHABLE" else None

            found: dict[str, Any] = wait_for("the cluster", ask)
            return found

    def leftovers(self) -> list[str]:
        """What is left of sessions on any host: processes, sockets, scratch, jobs."""
        found = []
        for host in (*self.nodes, self.login):
            for process in host.processes():
                words = " ".join(process.argv)
                if re.search(r"lib\.jobs\.session|jupyter|ipykernel|squashfuse|apptainer", words):
                    found.append(f"{host.name}: {process.pid} {process.user} {words[:200]}")
            found += [f"{host.name}: {p}" for p in host.path("/tmp").glob("sb-*")]
        jobs = self.login.run(["squeue", "-h", "-t", "PD,R,CG,S,CF", "-o", "%i %j %T"]).stdout
        found += [f"job {line}" for line in jobs.splitlines()]
        for host in self.bed.hosts.values():
            found += [f"{host.name}: {p}" for p in host.path("/tmp").glob("sb-*/f/*.sock")]
        return found

    def nothing_is_left(self, timeout_s: float = 300.0) -> None:
        """Ends when nothing is; fails with what still is, and what portal and gate said last."""
        deadline = time.monotonic() + timeout_s
        while left := self.leftovers():
            if time.monotonic() > deadline:
                logs = self.login.path("/home").glob("*/.scenebridge/*/gate.log")
                said = [
                    *self.output,
                    *(line for log in logs for line in log.read_text().split("\n")),
                ]
                raise AssertionError("\n".join([*left, *said[-60:]]))
            time.sleep(0.2)


@contextlib.contextmanager
def standing(bed: Bed, wheels: Path, it: Standing | None = None) -> Iterator[Standing]:
    """Set everything up on a bed that is up, with a portal that runs and a relay to it."""
    it = it or Standing(bed, wheels)
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


def begin(api: httpx.Client, **more: Any) -> str:
    """Ask for a notebook and do not wait; its session's id."""
    scene = api.get("/api/scenes").json()["features"][0]["id"]
    asked = {
        "scenes": [scene],
        "module": "active-fire",
        "cluster": CLUSTER,
        "resources": {"preset": "small", "walltime_s": 1800},
        **more,
    }
    made = api.post("/api/sessions", json=asked)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def launch(api: httpx.Client, site: Standing, **more: Any) -> dict[str, Any]:
    """A notebook by the API, until it is READY."""
    path = f"/api/sessions/{begin(api, **more)}"

    def ready() -> dict[str, Any] | None:
        found = api.get(path).json()
        assert found["state"] != "ENDED", found
        return found if found["state"] == "READY" else None

    found: dict[str, Any] = wait_for("READY", ready)
    return found


def fetch_wheels(into: Path) -> Path:
    """The wheels that a deployment ships, for the Python of the bed's hosts, as a folder."""
    import platform

    from lib.gate_deploy.wheels import target_of, wheels_for

    target = target_of(
        sys.version_info[:3], platform.machine(), platform.system(), platform.libc_ver()
    )
    into.mkdir()
    for piece in wheels_for(target, None):
        (into / Path(piece.path).name).write_bytes(piece.data)
    return into
