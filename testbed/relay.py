"""A port of the machine's own loopback that leads to one on a host's loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from testbed.hosts import Host


@contextmanager
def relay(host: Host, port: int, listen: int = 0) -> Iterator[int]:
    """Carry connections to 127.0.0.1:`listen` on to 127.0.0.1:`port` inside a host.

    Args:
        listen: 0 for the same port.
    Yields:
        the port to connect to. Connections end with the context.
    """
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", listen or port)))
        lines = Lines(host, port)
        stack.callback(lines.close)
        thread = threading.Thread(target=lines.accept, args=(server,), daemon=True)
        thread.start()
        # Closing a listening socket does not wake who waits on it; shutting it down does.
        stack.callback(thread.join, 5)
        stack.callback(server.shutdown, socket.SHUT_RDWR)
        yield server.getsockname()[1]


class Lines:
    """The connections of one relay."""

    def __init__(self, host: Host, port: int) -> None:
        self.host, self.port = host, port
        self.open: set[socket.socket] = set()
        self.closed = False
        self.lock = threading.Lock()

    def accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                threading.Thread(target=self.carry, args=(near,), daemon=True).start()

    def carry(self, near: socket.socket) -> None:
        with ExitStack() as stack:
            stack.enter_context(near)
            try:
                far = stack.enter_context(self.host.connect("127.0.0.1", self.port))
            except OSError:
                return
            far.settimeout(None)
            with self.lock:
                if self.closed:
                    return
                self.open |= {near, far}
            back = threading.Thread(target=pump, args=(far, near), daemon=True)
            back.start()
            pump(near, far)
            back.join()
            with self.lock:
                self.open -= {near, far}

    def close(self) -> None:
        with self.lock:
            self.closed = True
            for end in self.open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Carry one direction until it ends, and hand the end on."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
