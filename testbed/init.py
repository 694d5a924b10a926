"""Process 1 of the bed and of each of its hosts: `python -m testbed.init bed|host ...`.

The bed is one process in namespaces of its own, which hold the networks' bridges and one
tmpfs with the hosts' disks; every host is a process 1 in namespaces below those. So when the
bed's process is killed the kernel ends all there is: processes, networks and mounts.

Printed on standard output, once: the pid as the machine counts, when the process is ready.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from testbed import kernel, project
from testbed.places import LIVE, PROJECT

#: Top-level folders of the machine that its hosts show too; the others are not theirs.
SHOWN = {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "opt", "proc", "run"}
SHOWN |= {"sbin", "sys", "tmp", "usr", "var"}
EMPTY = ("home", "media", "mnt", "root", "srv")
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
FUSE, TUN, PRETENDED_GPU = (10, 229), (10, 200), (1, 3)


def main(arguments: Sequence[str]) -> None:
    what, rest = arguments[0], arguments[1:]
    os.umask(0o022)
    if what == "bed":
        start_bed(Path(rest[0]), Path(rest[1]))
    else:
        bed, folder, name, home, gpus = rest
        start_host(int(bed), Path(folder), name, home, int(gpus))


def start_bed(folder: Path, checkout: Path) -> None:
    kernel.unshare(kernel.HOST_NAMESPACES)

    def prepare() -> None:
        kernel.mount("", "/", flags=kernel.REC | kernel.PRIVATE)
        live = folder / LIVE
        live.mkdir(exist_ok=True)
        kernel.mount("testbed", live, "tmpfs", options="mode=755")
        (live / "disks").mkdir()
        (live / "homes").mkdir()
        project.assemble(checkout, live / "project", live / "project-parts")

    announce(become_init(prepare))


def start_host(bed: int, folder: Path, name: str, home: str, gpus: int) -> None:
    """Start a host below the bed.

    Args:
        home: name of the site's shared /home; "" for one of the host's own.
        gpus: how many to pretend.
    """
    for namespace in ("pid", "mnt", "net", "ipc", "uts", "cgroup"):
        kernel.setns(bed, namespace)
    # A process enters a pid namespace by being born there, and only one that is in it
    # may make another below it.
    child = os.fork()
    if child:
        # The grandchild's pid as the machine counts; the bed's own processes count otherwise.
        _, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            pid = children(child)[0]
            os.kill(child, signal.SIGCONT)
            os.waitpid(child, 0)
            announce(pid)
            return
        sys.exit(f"the host {name} could not be started")
    kernel.unshare(kernel.HOST_NAMESPACES)
    become_init(lambda: prepare_host(folder / LIVE, name, home, gpus))
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)


def children(pid: int) -> list[int]:
    """Children of a process, as the machine counts: hosts mount a /proc of their own later."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def become_init(prepare: Callable[[], None]) -> int:
    """Fork the process 1 of the new pid namespace; returns its pid when it is prepared."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ours)
        run_init(prepare, theirs)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        if answer.read() != "ready":
            os.waitpid(pid, 0)
            sys.exit(1)
    return pid


def run_init(prepare: Callable[[], None], ready: int) -> NoReturn:
    """What process 1 does: prepare, say so, and collect the children of others for ever."""
    try:
        os.setsid()
        prepare()
        os.write(ready, b"ready")
        os.close(ready)
        quiet = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        while True:
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            signal.sigwait([signal.SIGCHLD])
    except BaseException as exc:
        print(f"testbed: {exc}", file=sys.stderr, flush=True)
    os._exit(1)


def announce(pid: int) -> None:
    print(pid, flush=True)


# --- the root of a host -----------------------------------------------------------------


def prepare_host(live: Path, name: str, home: str, gpus: int) -> None:
    """Make and enter the host's root: the machine's programs, and a disk of its own."""
    kernel.mount("", "/", flags=kernel.REC | kernel.PRIVATE)
    socket.sethostname(name)
    disk = live / "disks" / name
    root = disk / "root"
    for folder in (disk / "upper", disk / "work", root):
        folder.mkdir(parents=True, exist_ok=True)
    hide_machine(disk / "upper")
    layers = f"lowerdir=/,upperdir={disk}/upper,workdir={disk}/work,index=off,xino=off"
    kernel.mount(name, root, "overlay", options=layers)
    kernel.mount("proc", root / "proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    kernel.mount("sysfs", root / "sys", "sysfs", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    with suppress(OSError):  # Only container programs with cgroups look for it.
        kernel.mount("cgroup2", root / "sys/fs/cgroup", "cgroup2", kernel.RDONLY)
    make_devices(root / "dev", gpus)
    for fresh, mode in (("tmp", "1777"), ("var/tmp", "1777"), ("run", "755")):
        kernel.mount(fresh, root / fresh, "tmpfs", kernel.NOSUID, f"mode={mode}")
    for runtime in ("run/sshd", "run/lock"):
        (root / runtime).mkdir()
    if home:
        kernel.bind(live / "homes" / home, root / "home")
    shown = root / str(PROJECT).lstrip("/")
    shown.mkdir(parents=True, exist_ok=True)
    kernel.bind(live / "project", shown)
    old = root / ".machine"
    old.mkdir(exist_ok=True)
    kernel.pivot_root(root, old)
    os.chdir("/")
    kernel.unmount("/.machine")
    Path("/.machine").rmdir()


def hide_machine(upper: Path) -> None:
    """Keep what is not a system's own (homes, projects, other disks) out of the host."""
    for entry in Path("/").iterdir():
        hidden = upper / entry.name
        if entry.name not in SHOWN and entry.name not in EMPTY and not hidden.exists():
            # A character device 0:0 is overlayfs's mark for "deleted".
            with suppress(FileExistsError):
                os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0))
    for name in EMPTY:
        folder = upper / name
        if not folder.exists():
            folder.mkdir(mode=0o700 if name == "root" else 0o755)
        os.setxattr(folder, "trusted.overlay.opaque", b"y")


def make_devices(dev: Path, gpus: int) -> None:
    kernel.mount("dev", dev, "tmpfs", kernel.NOSUID, "mode=755")
    for name in DEVICES:
        (dev / name).touch()
        kernel.bind(f"/dev/{name}", dev / name)
    for name in ("net", "pts", "shm", "mqueue"):
        (dev / name).mkdir()
    # The machine's /dev/fuse may be for root only; Apptainer needs it as an ordinary user.
    nodes = {"fuse": FUSE, "net/tun": TUN}
    nodes |= {f"fakegpu{number}": PRETENDED_GPU for number in range(gpus)}
    for name, (major, minor) in nodes.items():
        os.mknod(dev / name, stat.S_IFCHR, os.makedev(major, minor))
        (dev / name).chmod(0o666)
    options = "newinstance,ptmxmode=0666,mode=620,gid=5"
    kernel.mount("devpts", dev / "pts", "devpts", kernel.NOSUID | kernel.NOEXEC, options)
    kernel.mount("shm", dev / "shm", "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=1777")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd"}
    links |= {"stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    for name, target in links.items():
        (dev / name).symlink_to(target)


if __name__ == "__main__":
    main(sys.argv[1:])
