"""What the tests of the test-bed try things with."""

import re
import time
from pathlib import Path

JUMP, LOGIN, NODES = "nchc-jump", "nchc-login", ("nchc-n1", "nchc-n2")
OUTSIDE = ("portal", "admin")

#: argv: address, then port ranges "1-1024". Prints the ports that accept a connection.
SCAN = r"""
import errno, select, socket, sys, time
address, ports = sys.argv[1], []
for word in sys.argv[2:]:
    first, _, last = word.partition("-")
    ports += range(int(first), int(last or first) + 1)
found = []
for start in range(0, len(ports), 800):
    poll, waiting = select.epoll(), {}
    for port in ports[start:start + 800]:
        s = socket.socket()
        s.setblocking(False)
        code = s.connect_ex((address, port))
        if code == errno.EINPROGRESS:
            waiting[s.fileno()] = (s, port)
            poll.register(s, select.EPOLLOUT)
        elif code == 0:
            found.append(port)
    end = time.monotonic() + 1.5
    while waiting and time.monotonic() < end:
        for fd, _ in poll.poll(0.1):
            s, port = waiting.pop(fd)
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found.append(port)
            poll.unregister(fd)
            s.close()
print(*found)
"""
LISTEN = """
import socket, sys
s = socket.create_server(("0.0.0.0", 0), backlog=50)
print(s.getsockname()[1], flush=True)
sys.stdin.read()
"""

#: Sends back, backwards, what one connection says first.
ECHO = """
import socket
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
c, _ = s.accept()
c.sendall(c.recv(99)[::-1])
"""


def scan(host, address, ports) -> set[int]:
    words = [str(word) for word in ports]
    done = host.run(["/usr/bin/python3", "-c", SCAN, address, *words], timeout=100)
    return {int(word) for word in done.stdout.split()}


def listening(host) -> set[int]:
    """Ports that the host has open, by its kernel."""
    # /proc/net is of who reads it; the host's own view is that of its process 1.
    lines = Path(f"/proc/{host.pid}/net/tcp").read_text().splitlines()[1:]
    return {int(line.split()[1].split(":")[1], 16) for line in lines if line.split()[3] == "0A"}


def running(host) -> list[tuple[str, ...]]:
    return [process.argv for process in host.processes()]


def until(true, timeout, what):
    end = time.monotonic() + timeout
    while not (value := true()):
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.2)
    return value


def state_of(bed, node) -> str:
    asked = bed.host(LOGIN).run(["sinfo", "-h", "-N", "-n", node, "-p", "dev", "-o", "%T"])
    return asked.stdout.strip()


def submit(bed, user, *options, script="#!/bin/sh\nsleep 60\n") -> str:
    argv = ["sbatch", "--parsable", "-o", "/dev/null", *options]
    return bed.host(LOGIN).run(argv, user, input=script).stdout.strip()


def job_state(bed, job) -> str:
    shown = bed.host(LOGIN).run(["scontrol", "-o", "show", "job", job]).stdout
    return re.search(r"JobState=(\w+)", shown)[1]
