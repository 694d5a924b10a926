"""The command line: `python3 -m testbed COMMAND`, as root."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from testbed import image, install
from testbed.bed import DEFAULT_STATE, VARIABLE, Bed
from testbed.errors import BedError
from testbed.places import IMAGE

PROJECT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 done, 1 it is down or something is missing (`status`), 2 it failed."""
    parser = argparse.ArgumentParser(prog="python3 -m testbed", description=__doc__)
    parser.add_argument(
        "--state", type=Path, help=f"the bed's folder (${VARIABLE}, else {DEFAULT_STATE})"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("install", help="install what the test-bed needs (Debian 12)")
    commands.add_parser("check", help="say what is missing; exit code 0 where nothing is")
    commands.add_parser("up", help="bring it, or those of its hosts that are off, up")
    commands.add_parser("down", help="end it and leave nothing behind")
    commands.add_parser("status", help="what is there, and what is missing")
    look = commands.add_parser("portal", help="start a portal with a site, for a browser here")
    look.add_argument(
        "--port", type=int, default=8501, help="on this machine's loopback (default: 8501)"
    )
    shell = commands.add_parser("shell", help="a shell, or a command after --, on a host")
    shell.add_argument("host")
    shell.add_argument("--user", default="root")
    shell.epilog = "Without -- CMD it is a login shell."
    for name, what in (("cut", "cut a link"), ("heal", "mend a link that was cut")):
        commands.add_parser(name, help=what).add_argument("link", metavar="HOST[:NETWORK]")
    for name, what in (("kill", "power a host off"), ("start", "power a host on")):
        commands.add_parser(name, help=what).add_argument("host")
    # argparse would take options of the command for its own.
    ours, _, theirs = "\0".join(arguments).partition("\0--\0")
    options = parser.parse_args(ours.split("\0"))
    options.argv = theirs.split("\0") if theirs else []
    try:
        return COMMANDS[options.command](options)
    except BedError as exc:
        print(f"testbed: {exc}", file=sys.stderr)
        return 2


def install_all(_: argparse.Namespace) -> int:
    for line in install.install() or ["Everything is installed."]:
        print(line)
    install.check()
    return 0


def check(_: argparse.Namespace) -> int:
    install.check()
    return 0


def up(options: argparse.Namespace) -> int:
    began = time.monotonic()
    if bed_of(options).up(print):
        print(f"The test-bed is up ({time.monotonic() - began:.1f} s).")
    else:
        print("The test-bed is up already.")
    return 0


def down(options: argparse.Namespace) -> int:
    began = time.monotonic()
    if bed_of(options).down():
        print(f"The test-bed is down ({time.monotonic() - began:.1f} s).")
    else:
        print("The test-bed is down already.")
    return 0


def status(options: argparse.Namespace) -> int:
    bed = bed_of(options)
    lacks = install.lacks()
    for lack in lacks:
        print(f"missing: {lack}")
    if os.geteuid():
        return 1  # Only root sees whether it is up.
    if not bed.pid:
        print(f"The test-bed is down ({bed.state}); bring it up: python3 -m testbed up")
        return 1
    print(f"The test-bed is {'up' if bed.complete else 'half up'} ({bed.state}).")
    for host in bed.hosts.values():
        links = "  ".join(f"{name} {address}" for name, address in host.machine.links.items())
        state = f"pid {host.pid}" if host.pid else "off"
        print(f"  {host.name:12} {state:11} {', '.join(host.machine.services):24} {links}")
        if host.pid and "slurmctld" in host.machine.services:
            print(f"    {IMAGE} sha256 {image.checksum(host) or 'none'}")
            asked = host.run(["sinfo", "-h", "-o", "%R %F %G %l"], check=False)
            for line in (asked.stdout or asked.stderr).splitlines():
                print(f"    sinfo: {line}")
    on = all(host.pid for host in bed.hosts.values())
    return 0 if bed.complete and on and not lacks else 1


def portal(options: argparse.Namespace) -> int:
    """Until Ctrl-C, or until the portal ends by itself."""
    use_environment()
    from testbed.standing import ADMIN, DATA, shown  # with packages of the project

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    try:
        with shown(bed_of(options), options.port, print) as it:
            print(f"The portal stands ({time.monotonic() - began:.0f} s). Open in a browser here:")
            print(f"  {it.link}")
            state = f" --state {options.state}" if options.state else ""
            link = shlex.join([*ADMIN, "link", "--data", DATA])
            print("The link signs in one browser. Another one, while this runs:")
            print(f"  python3 -m testbed{state} shell portal --user scenebridge -- {link}")
            print("Ctrl-C ends it, and all that it runs.", flush=True)
            code = it.process.wait() if it.process is not None else 0
            raise BedError(f"the portal has ended ({code}):\n" + "\n".join(it.output[-20:]))
    except KeyboardInterrupt:
        print("The portal has ended, and nothing of it is left.")
        return 0


def use_environment() -> None:
    """Go on with the Python that `./run` has set up: the portal's side needs its packages."""
    environment = PROJECT / ".venv"
    python = environment / "bin" / "python"
    if Path(sys.prefix).resolve() == environment.resolve():
        return
    if not python.exists():
        raise BedError("the project is not set up: start ./run --help once, as its owner")
    os.chdir(PROJECT)
    os.execv(python, [str(python), "-m", "testbed", *sys.argv[1:]])  # noqa: S606 - argv, no shell


def shell(options: argparse.Namespace) -> int:
    host = bed_of(options).host(options.host)
    argv = options.argv or ["/bin/bash", "-l"]
    environment = host.environment(options.user)
    if terminal := os.environ.get("TERM"):
        environment["TERM"] = terminal
    command = host.entering(argv, options.user)
    os.execve(command[0], command, environment)  # noqa: S606 - argv, no shell


def change(options: argparse.Namespace) -> int:
    bed = bed_of(options)
    if options.command == "cut":
        bed.cut(options.link)
    elif options.command == "heal":
        bed.heal(options.link)
    elif options.command == "kill":
        bed.host(options.host).kill()
    else:
        bed.host(options.host).start()
    return 0


def bed_of(options: argparse.Namespace) -> Bed:
    return Bed(options.state)


COMMANDS = {
    "install": install_all,
    "check": check,
    "up": up,
    "down": down,
    "status": status,
    "portal": portal,
    "shell": shell,
    "cut": change,
    "heal": change,
    "kill": change,
    "start": change,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
