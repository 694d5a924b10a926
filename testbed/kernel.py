"""The few system calls for namespaces and mounts that Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEWPID, NEWNET = 0x20000000, 0x40000000
#: All that makes a host; users stay the machine's, since its programs need real uids.
HOST_NAMESPACES = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWPID | NEWNET

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
REMOUNT, BIND, REC, PRIVATE = 32, 4096, 16384, 1 << 18
DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def setns(pid: int, namespace: str) -> None:
    """Put the calling thread into one namespace of a process.

    A "pid" namespace takes the thread's later children only; "mnt" needs a process with
    one thread.
    """
    descriptor = os.open(f"/proc/{pid}/ns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, 0), f"setns {namespace}")
    finally:
        os.close(descriptor)


def mount(
    source: str | Path, target: str | Path, kind: str = "", flags: int = 0, options: str = ""
) -> None:
    """mount(2); `options` as one comma-separated string."""
    arguments = [str(text).encode() if text else None for text in (source, target, kind)]
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None)
    _check(result, f"mount {source} on {target}")


def bind(source: str | Path, target: str | Path, *, read_only: bool = False) -> None:
    """Show a file or a folder, with what is mounted below it, at a second place.

    `read_only` covers the mount itself, not the ones below it.
    """
    mount(source, target, flags=BIND | REC)
    if read_only:
        mount("", target, flags=BIND | REMOUNT | RDONLY)


def unmount(target: str | Path) -> None:
    """Take a mount away now, with what is below it, and let its users finish."""
    _check(_libc.umount2(str(target).encode(), DETACH), f"umount {target}")


def pivot_root(new: str | Path, old: str | Path) -> None:
    # glibc has no function for it.
    number = PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, str(new).encode(), str(old).encode()), f"pivot_root {new}")


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 where there is none.

    Together with the pid it names one process: pids are given again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
