"""Connect a UNIX socket and hand it to ssh: ``ProxyCommand`` with ``ProxyUseFdpass=yes``.

Run by ssh as ``python -I -S fdpass.py SOCKET``. Standard output is one end of a socket
pair; the connected descriptor is sent over it, then this process ends, so the bytes of
the connection never pass through Python.
"""

from __future__ import annotations

import os
import socket
import sys


def main(path: str) -> int:
    """Returns the exit code: 0 when ssh has the descriptor, 1 when nothing listens there."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.connect(path)
        with socket.socket(fileno=os.dup(1)) as ssh:
            socket.send_fds(ssh, [b"\0"], [link.fileno()])
    except OSError as exc:
        sys.stderr.write(f"tunnel socket: {exc.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
