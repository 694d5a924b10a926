"""Connect to a UNIX socket in a folder that a container writes, and read what is left in one.

What runs there may put a symbolic link to any socket of the node in place of its own (a
bus, another session's notebook) and would be connected to it with the account's rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
from pathlib import Path

_TIMEOUT_S = 10.0
_READ = 512 * 1024


async def connect_unix(path: Path) -> socket.socket:
    """A connected stream socket; the last name of `path` is not followed.

    Where the system has no O_PATH (not Linux: there are no containers) the path is taken
    as it is.

    Raises:
        OSError: nothing answers there, or it is not a socket itself.
    """
    with contextlib.ExitStack() as held:
        address = str(path)
        if sys.platform == "linux":
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            held.callback(os.close, fd)
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise OSError(f"{path} is not a socket")
            address = f"/proc/self/fd/{fd}"  # exactly what was looked at
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            connecting = asyncio.get_running_loop().sock_connect(sock, address)
            await asyncio.wait_for(connecting, _TIMEOUT_S)
        except asyncio.TimeoutError as exc:
            sock.close()
            raise OSError(f"{path} does not take a connection") from exc
        except BaseException:
            sock.close()
            raise
        return sock


def unread_of(transport: asyncio.Transport | None) -> bytes:
    """What the other side said before it stopped to listen, which asyncio leaves in the socket.

    A notebook's server that gets a WebSocket message it does not take says why and closes;
    the error of the next write comes before that was read.
    """
    parts = []
    if transport is not None:
        with contextlib.suppress(OSError):
            while part := os.read(transport.get_extra_info("socket").fileno(), _READ):
                parts.append(part)
    return b"".join(parts)
