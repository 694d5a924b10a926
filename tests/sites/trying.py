"""What the tests of the test-bed try things with."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

JUMP, LOGIN, NODES = "nchc-jump", "nchc-login", ("nchc-n1", "nchc-n2")
OUTSIDE = ("portal", "admin")

#: argv: "ADDRESS PORTS..." each, with ports such as "1-1024". Prints "ADDRESS PORT" of those that
#: accept a connection. Who drops packets gives no answer to wait for, so all are tried at once.
SCAN = r"""
import errno, resource, select, socket, sys, time
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
places = []
for word in sys.argv[1:]:
    address, *ranges = word.split()
    for ports in ranges:
        first, _, last = ports.partition("-")
        places += [(address, port) for port in range(int(first), int(last or first) + 1)]
for start in range(0, len(places), most - 50):
    poll, waiting = select.epoll(), {}
    for place in places[start:start + most - 50]:
        s = socket.socket()
        s.setblocking(False)
        code = s.connect_ex(place)
        if code == errno.EINPROGRESS:
            waiting[s.fileno()] = (s, place)
            poll.register(s, select.EPOLLOUT)
        elif code == 0:
            print(*place)
    end = time.monotonic() + 1.5
    while waiting and time.monotonic() < end:
        for fd, _ in poll.poll(0.1):
            s, place = waiting.pop(fd)
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                print(*place)
            poll.unregister(fd)
            s.close()
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
    """Which of the ports accept a connection from the host."""
    return scans(host, {address: ports})[address]


def scans(host, places) -> dict[str, set[int]]:
    """Of several addresses at once: address to its ports."""
    words = [" ".join([address, *map(str, ports)]) for address, ports in places.items()]
    done = host.run(["/usr/bin/python3", "-c", SCAN, *words], timeout=300)
    found = {address: set() for address in places}
    for line in done.stdout.splitlines():
        address, port = line.split()
        found[address].add(int(port))
    return found


def at_once(act, *arguments) -> list:
    """Do the same with each argument, side by side; the results in their order."""
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(act, arguments))


def listening(host) -> set[int]:
    """Ports that the host has open, by its kernel."""
    # /proc/net is of who reads it; the host's own view is that of its process 1.
    lines = Path(f"/proc/{host.pid}/net/tcp").read_text().splitlines()[1:]
    return {int(line.split()[1].split(":")[1], 16) for line in lines if line.split()[3] == "0A"}


def running(host) -> list[tuple[str, ...]]:
    return [process.argv for process in host.processes()]


def until(true, what, instead=lambda: ""):
    """Wait until it is so, however busy the computer is: the bound only ends a wait in vain.
    `instead` says then what is so."""
    end = time.monotonic() + 600
    while not (value := true()):
        assert time.monotonic() < end, f"{what}: {instead()}"
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
