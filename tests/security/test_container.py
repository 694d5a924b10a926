"""What a task in a container reaches: a list of mounts, and attempts to get out.

The account (ada) holds a gate's folder, a home and data. Each attempt from inside has its
sibling outside: ada can do it there, so that it is the container which refuses.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib.jobs.interfaces import Task
from lib.jobs.runtimes import make_runtime
from tests.fixtures.containers import DATA, Containers, make_containers, why_not

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not() or "-")
#: What every container has of its own; all else must be asked for.
OWN = {"/", "/dev", "/dev/shm", "/dev/mqueue", "/dev/pts", "/proc"}
OWN |= {f"/dev/{name}" for name in ("tty", "null", "zero", "random", "urandom", "console")}
OWN |= {f"/etc/{name}" for name in ("resolv.conf", "passwd", "group")}
READ = """
import json, sys
def read(path):
    try:
        return open(path, "rb").read(100).decode("latin-1")
    except OSError as exc:
        return type(exc).__name__
print(json.dumps({path: read(path) for path in sys.argv[1:]}))
"""


class Node:
    """A compute node with an account, a gate's folder with two sessions, and data.

    `private` is the node-local folder of the session `mine`; all else lies in /srv for ada.
    """

    def __init__(self, root: Path) -> None:
        self.srv = root / "srv"
        for name in ("images", "srv/gate/sessions", "srv/archive", "private"):
            (root / name).mkdir(parents=True)
        made = make_containers(root / "images")
        self.containers = Containers(made.folder, self.srv)
        self.private = root / "private"
        self.mine = self._session("mine")
        self._session("theirs")
        (self.srv / "gate/policy.toml").write_text("secret policy")
        (self.srv / "archive/a.tif").write_text("pixels of a")
        (self.srv / "archive/b.tif").write_text("pixels of b")
        (made.folder / "home/.ssh").mkdir()
        (made.folder / "home/.ssh/id_ed25519").write_text("secret key")
        self.runtime = make_runtime("apptainer", self.containers.options())

    def _session(self, name: str) -> Path:
        folder = self.srv / "gate/sessions" / name
        for half in ("control", "work"):
            (folder / half).mkdir(parents=True)
        (folder / "control/token").write_text("secret token")
        (folder / "work/result").write_text("a result")
        return folder

    @property
    def work(self) -> Path:
        """As the account sees it."""
        return DATA / "gate/sessions/mine/work"

    def task(self, *args: str, **env: str) -> Task:
        readable = (DATA / "archive/a.tif",)
        image = self.containers.image
        return Task(args, env, self.work, self.private, readable, 0, image)

    def inside(self, *args: str, check: bool = True, **env: str) -> str:
        """What Python prints in the container."""
        what = self.runtime.invocation(self.task(*args, **env))
        return self._run(what.argv, dict(what.env), what.cwd, check)

    def outside(self, *args: str) -> str:
        """What Python prints for ada on the node."""
        return self._run(("/usr/bin/python3", *args), {}, Path("/"), True)

    def _run(self, argv: tuple[str, ...], env: dict[str, str], cwd: Path, check: bool) -> str:
        done = subprocess.run(
            self.containers.as_ada(*argv), env={"PATH": "/usr/sbin:/usr/bin", **env}, cwd=cwd,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return Node(tmp_path_factory.mktemp("node"))


def mounts(node: Node) -> dict[str, tuple[str, str, str]]:
    """Mount point to (path on the node's file system, options, type), from inside."""
    text = node.inside("-c", "print(open('/proc/self/mountinfo').read())")
    found = {}
    for line in text.strip().splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        found[fields[4]] = (fields[3], fields[5], right.split()[0])
    return found


def test_nothing_is_mounted_but_what_was_agreed_on(node: Node) -> None:
    found = mounts(node)
    binds = {str(bind.target) for bind in node.runtime.binds}  # type: ignore[attr-defined]
    data = {"/srv/archive/a.tif"}
    assert set(found) - OWN == {"/session/work", "/tmp"} | binds | data
    for place in binds | data:
        assert "ro" in found[place][1].split(",")
    assert found["/session/work"][0].endswith("/gate/sessions/mine/work")
    assert found["/tmp"][0].endswith("/private")
    for place in ("/session/work", "/tmp"):
        assert {"rw", "nosuid", "nodev"} <= set(found[place][1].split(","))
    assert found["/"][2] == "overlay"
    for place in set(found) & OWN - {"/"}:
        assert found[place][2] in ("tmpfs", "devtmpfs", "devpts", "mqueue", "proc")


def test_the_image_cannot_be_written(node: Node) -> None:
    for path in ("/x", "/etc/x", "/opt/x", "/usr/x", "/session/x", "/srv/x", "/var/x"):
        said = node.inside("-c", f"open({path!r}, 'w')", check=False)
        assert said == ""
        assert "FileNotFoundError" in _read(node.inside, path)


def _read(where: Callable[..., str], *paths: Path | str) -> str:
    return " ".join(json.loads(where("-c", READ, *map(str, paths))).values())


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/etc/shadow", "root:"),
        ("/etc/hostname", ""),
        ("HOME/.ssh/id_ed25519", "secret key"),
        ("IMAGES/passwd", "root:"),
        ("/srv/gate/policy.toml", "secret policy"),
        ("/srv/gate/sessions/mine/control/token", "secret token"),
        ("/srv/gate/sessions/theirs/control/token", "secret token"),
        ("/srv/gate/sessions/theirs/work/result", "a result"),
        ("/srv/archive/b.tif", "pixels of b"),
        ("/proc/1/root/srv/gate/policy.toml", None),
        ("/session/work/../control/token", None),
        ("/session/control/token", None),
    ],
)
def test_what_the_account_can_read_is_not_there(node: Node, path: str, content: str | None) -> None:
    folder = str(node.containers.folder)
    path = path.replace("HOME", f"{folder}/home").replace("IMAGES", folder)
    if content is not None:
        outside = _read(node.outside, path)
        if outside == "FileNotFoundError":
            pytest.skip(f"this computer has no {path}")
        assert outside != "PermissionError"
        assert content in outside
    assert _read(node.inside, path) == "FileNotFoundError"


def test_its_own_data_and_folders_are_there(node: Node) -> None:
    assert (
        _read(node.inside, "/srv/archive/a.tif", "/session/work/result") == "pixels of a a result"
    )
    node.inside("-c", "open('/session/work/new', 'w').write('x'); open('/tmp/new', 'w')")
    assert (node.mine / "work/new").read_text() == "x"
    assert (node.private / "new").exists()


@pytest.mark.parametrize(
    "act",
    [
        "open('/srv/archive/a.tif', 'r+')",
        "os.truncate('/srv/archive/a.tif', 0)",
        "os.unlink('/srv/archive/a.tif')",
        "os.rename('/srv/archive/a.tif', '/srv/archive/c.tif')",
        "os.utime('/srv/archive/a.tif')",
        "os.chmod('/srv/archive/a.tif', 0o777)",
        "os.link('/srv/archive/a.tif', '/session/work/a.tif')",
        "subprocess.run(['mount', '-o', 'remount,rw,bind', '/srv/archive/a.tif'], check=True)",
        "subprocess.run(['umount', '/srv/archive/a.tif'], check=True)",
        "subprocess.run(['unshare', '-Urm', 'mount', '-o', 'remount,rw,bind',"
        " '/srv/archive/a.tif'], check=True)",
        "subprocess.run(['unshare', '-Urm', 'umount', '/session/work'], check=True)",
        "subprocess.run(['chroot', '/proc/1/root', 'true'], check=True)",
    ],
)
def test_data_cannot_be_changed_nor_mounts_moved(node: Node, act: str) -> None:
    script = f"import os, subprocess\ntry:\n {act}\nexcept Exception as e:\n print('no', e)"
    assert node.inside("-c", script).startswith("no")
    assert (node.srv / "archive/a.tif").read_text() == "pixels of a"
    assert not (node.mine / "work/a.tif").exists()


def test_links_in_the_work_folder_lead_nowhere(node: Node) -> None:
    work = node.mine / "work"
    targets = {
        "shadow": "/etc/shadow",
        "up": "../control/token",
        "other": "../../theirs/work/result",
        "gate": "/srv/gate/policy.toml",
        "root": "/proc/1/root/srv/gate/policy.toml",
        "cwd": "/proc/1/cwd/srv/gate/policy.toml",
    }
    for name, target in targets.items():
        (work / name).symlink_to(target)
    try:
        for name in ("shadow", "up", "other", "gate"):
            assert "Error" not in _read(node.outside, node.work / name)
        for name in targets:
            assert _read(node.inside, f"/session/work/{name}") == "FileNotFoundError"
        node.inside("-c", "open('/session/work/up', 'w')", check=False)
        assert (node.mine / "control/token").read_text() == "secret token"
    finally:
        for name in targets:
            (work / name).unlink()


def test_it_has_no_rights_and_sees_no_processes_but_its_own(node: Node) -> None:
    script = (
        "import json, os\n"
        "status = dict(l.split(':\\t') for l in open('/proc/self/status').read().splitlines() "
        "if l.startswith(('Cap', 'NoNewPrivs')))\n"
        "pids = [p for p in os.listdir('/proc') if p.isdigit()]\n"
        "print(json.dumps([status, pids, os.getuid()]))"
    )
    status, pids, uid = json.loads(node.inside("-c", script))
    assert {int(value, 16) for key, value in status.items() if key.startswith("Cap")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert len(pids) <= 3
    assert uid == 4242


def test_nothing_of_the_accounts_environment_or_settings_reaches_apptainer(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for prefix in ("APPTAINER", "SINGULARITY"):
        monkeypatch.setenv(f"{prefix}_BIND", "/srv/gate:/mnt")
        monkeypatch.setenv(f"{prefix}_BINDPATH", "/srv/gate:/mnt")
        monkeypatch.setenv(f"{prefix}ENV_PLANTED", "x")
        monkeypatch.setenv(f"{prefix}_WRITABLE_TMPFS", "1")
    monkeypatch.setenv("SECRET", "x")
    what = node.runtime.invocation(node.task())
    own = {key for key in what.env if not key.startswith("APPTAINERENV_")}
    assert own == {"PATH", "HOME", "APPTAINER_CONFIGDIR"}
    assert "PLANTED" not in str(what.env)
    assert "SECRET" not in str(what.env)
    config = Path(what.env["APPTAINER_CONFIGDIR"])
    assert not os.access(config / "x", os.F_OK)
    with pytest.raises(OSError, match="x"):
        (config / "x").mkdir()
    script = "import os; print(os.path.exists('/mnt/policy.toml'), 'PLANTED' in os.environ)"
    assert node.inside("-c", script).split() == ["False", "False"]


def test_home_and_tmp_are_on_the_nodes_disk_and_not_small(node: Node) -> None:
    """Apptainer's own /tmp and home hold 64 MB, in memory."""
    script = (
        "import os, tempfile\n"
        "open(os.path.expanduser('~/large'), 'wb').write(bytes(100 * 2**20))\n"
        "print(os.path.getsize(os.path.expanduser('~/large')), tempfile.gettempdir())\n"
        "os.unlink(os.path.expanduser('~/large'))"
    )
    assert node.inside("-c", script).split() == [str(100 * 2**20), "/tmp"]


STARTUP = (
    *(".bashrc", ".bash_profile", ".profile", ".zshenv", ".pythonrc", "sitecustomize.py"),
    *("usercustomize.py", "told.py", "python", "python3", "apptainer", "sh"),
    *(".singularity.d/env/99-x.sh", ".apptainer/apptainer.conf", ".local/bin/python"),
    *(".ipython/profile_default/startup/00.py", ".jupyter/jupyter_server_config.py"),
)
#: A shell script and a Python program at once.
PLANT = """#!/bin/sh
'''':'
touch /tmp/MARK /srv/MARK /session/work/MARK
exit
'''
for place in ("/tmp", "/srv", "/session/work"):
    try:
        open(place + "/MARK", "w")
    except OSError:
        pass
"""


def test_what_is_planted_in_the_work_folder_does_not_run(node: Node, tmp_path: Path) -> None:
    """Neither outside nor, by itself, inside; the sibling runs it on purpose."""
    mark = f"ran-{os.getpid()}"
    planted = [node.mine / "work" / name for name in STARTUP]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PLANT.replace("MARK", mark))
        path.chmod(0o755)
    try:
        script = "import subprocess; subprocess.run(['bash', '-lc', 'true']); import sys; print(1)"
        assert node.inside("-c", script).strip() == "1"
        for folder in (node.srv, node.private, node.mine / "work", Path("/tmp")):
            assert not (folder / mark).exists()
        node.inside("/session/work/told.py")
        assert (node.mine / "work" / mark).exists()
        assert (node.private / mark).exists()
        assert not (node.srv / mark).exists()
        assert not Path("/tmp", mark).exists()
    finally:
        for path in planted:
            path.unlink()
        (node.mine / "work" / mark).unlink(missing_ok=True)


def test_gpus_bring_sys_and_nothing_else(node: Node) -> None:
    task = replace(node.task("-c", "print(open('/proc/self/mountinfo').read())"), gpus=1)
    what = node.runtime.invocation(task)
    text = node._run(what.argv, dict(what.env), what.cwd, True)
    places = {line.split()[4] for line in text.strip().splitlines()}
    more: set[Any] = places - set(mounts(node))
    assert "/sys" in places
    assert {
        p for p in more if not p.startswith(("/sys", "/dev/nvidia", "/.singularity.d"))
    } == set()
