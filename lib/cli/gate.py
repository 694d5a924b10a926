"""`gate deploy|start|stop|status|upgrade|policy|key|wheels`: the gates on clusters' login nodes.

All but `key` and `wheels` are run by an administrator in an account of their own, on the portal
host or on their own computer, and sign in to the cluster once each. They need no data folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lib.cli.output import Commands, Output, command, plain
from lib.cli.store_access import portal_of
from lib.config.offerings import load_offerings
from lib.config.settings import PROJECT
from lib.config.site_paths import tunnel_folder
from lib.errors import InvalidInput, Refused
from lib.gate_deploy import host_key_pin, policy_edit, steps, wheels
from lib.gate_deploy.login import refuse_portal, signed_in
from lib.model import ClusterId, json_list, json_text
from lib.tunnels.outer.admin_ssh import login_of
from lib.tunnels.portal_keys import portal_key

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from lib.config.clusters import ClusterEntry
    from lib.gate_deploy.connection import NodeConnection
    from lib.gate_deploy.remote.frames import Message

_MAX_KEY_BYTES = 16 * 1024


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add all of them."""
    group = commands.add_parser("gate", help="the gates on the clusters' login nodes")
    part = group.add_subparsers(metavar="COMMAND", required=True)
    parsers = {}
    for name, run, about in (
        ("deploy", _deploy, "Install the gate on a login node, or this version of it; start it."),
        ("upgrade", _upgrade, "Change over to this version; sessions go on, a failure goes back."),
        ("start", _start, "Start the gate."),
        ("stop", _stop, "Stop the gate; sessions go on."),
        ("status", _status, "Say whether the gate runs, where, which version, and what is wrong."),
        ("policy", _policy, "Edit what the gate allows; checked there before it counts."),
        ("key", _key, "In the portal's account: print the portal's public key for a cluster."),
    ):
        parsers[name] = parser = command(part, name, run, common, about)
        parser.add_argument("cluster", metavar="CLUSTER")
        if name != "key":
            parser.add_argument(
                "--user", default="", metavar="ACCOUNT", help="your account on the cluster"
            )
    about = "Fetch the packages that a gate is deployed with, for where there is no internet."
    fetching = command(part, "wheels", _wheels, common, about)
    fetching.add_argument("folder", metavar="DIR", type=Path)
    fetching.add_argument(
        "--python", default="3.11", metavar="X.Y", help="of the login node (default: 3.11)"
    )
    fetching.add_argument(
        "--machine", default="x86_64", choices=wheels.MACHINES, help="its processor, as uname -m"
    )
    for name in ("deploy", "upgrade"):
        parsers[name].add_argument(
            "--wheels", type=Path, metavar="DIR", help="take the packages from there, not from pip"
        )
    _add_deploy(parsers["deploy"])
    parsers["stop"].add_argument("--jobs", action="store_true", help="end all its sessions too")
    way = parsers["policy"].add_mutually_exclusive_group()
    way.add_argument("--get", action="store_true", help="print it")
    way.add_argument("--set", type=Path, metavar="FILE", help="replace it by this file")


def _add_deploy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--portal-key", default="", metavar="FILE|TEXT",
        help="the portal's public key, as `gate key` prints it; needed the first time",
    )  # fmt: skip
    parser.add_argument(
        "--scheduler", default="", metavar="NAME",
        help="for the first policy: slurm or local (default: what is found there)",
    )  # fmt: skip
    parser.add_argument(
        "--runtime", default="", metavar="NAME",
        help="for the first policy: apptainer or process (default: what is found there)",
    )  # fmt: skip
    parser.add_argument(
        "--portal-origin", action="append", default=[], metavar="URL",
        help="for the first policy: the portal as browsers see it",
    )  # fmt: skip
    parser.add_argument(
        "--pin", action="store_true", help="write the gate's host key into the cluster's file"
    )


# --- commands -------------------------------------------------------------------------------


def _deploy(options: argparse.Namespace) -> Output:
    entry = _entry(options)
    key = steps.public_key(options.portal_key, _read_key) if options.portal_key else ""
    wanted = steps.DeployOptions(
        portal_key=key,
        scheduler=options.scheduler,
        runtime=options.runtime,
        portal_origins=tuple(options.portal_origin),
        wheels=options.wheels,
    )
    return _change_over(options, entry, wanted, pin=options.pin)


def _upgrade(options: argparse.Namespace) -> Output:
    return _change_over(
        options, _entry(options), steps.DeployOptions(wheels=options.wheels, start=False)
    )


def _change_over(
    options: argparse.Namespace,
    entry: ClusterEntry,
    wanted: steps.DeployOptions,
    *,
    pin: bool = False,
) -> Output:
    modules = load_offerings(PROJECT).modules.values()
    with _connection(options, entry) as connection:
        done = steps.deploy(connection, entry, wanted, modules, _say)
    lines = [_changed(done, entry), *_host_key(entry, json_text(done["host_key"]), pin=pin)]
    if done["first_policy"]:
        lines.append(f"Its first policy allows little; look at it: admin.py gate policy {entry.id}")
    lines += map(json_text, json_list(done["problems"]))
    return Output(done, "\n".join(lines))


def _start(options: argparse.Namespace) -> Output:
    entry = _entry(options)
    with _connection(options, entry) as connection:
        done, _ = connection.ask("start", home=login_of(entry)[1].home)
    already = " already" if done["was_running"] else ""
    return Output(done, f"The gate of cluster {entry.id} runs{already}: {_where(done)}.")


def _stop(options: argparse.Namespace) -> Output:
    entry = _entry(options)
    with _connection(options, entry) as connection:
        done, _ = connection.ask("stop", home=login_of(entry)[1].home, jobs=options.jobs)
    said = "is stopped" if done["was_running"] else "was not running"
    rest = "All that it had started has ended." if options.jobs else _going_on(done)
    return Output(done, f"The gate of cluster {entry.id} {said}. {rest}")


def _status(options: argparse.Namespace) -> Output:
    entry = _entry(options)
    home = login_of(entry)[1].home
    with _connection(options, entry) as connection:
        done, _ = connection.ask("status", home=home)
        here = steps.version_here(connection, home)
    return Output({**done, "here": here}, "\n".join(_status_lines(entry, done, here)))


def _policy(options: argparse.Namespace) -> Output:
    entry = _entry(options)
    given = _read_file(options.set) if options.set else None
    with _connection(options, entry) as connection:
        _, gate = login_of(entry)
        if options.get:
            _, text = connection.ask("read-policy", home=gate.home)
            policy = text.decode("utf-8", "replace")
            return Output({"policy": policy}, policy.rstrip("\n"))
        if given is not None:
            done: Message | None = policy_edit.replace(connection, gate, given)
        else:
            done = policy_edit.edit(connection, gate, _say)
    if done is None:
        return Output({"changed": False}, "The policy was not changed.")
    restarted = "; the gate runs with it, sessions went on" if done["was_running"] else ""
    lines = [f"The policy of cluster {entry.id} is replaced{restarted}."]
    lines += [
        "The former one is policy.toml.1 beside it.",
        *map(json_text, json_list(done["problems"])),
    ]
    return Output({"changed": True, **done}, "\n".join(lines))


def _key(options: argparse.Namespace) -> Output:
    data = portal_of(options)
    entry = _entry(options)
    login_of(entry)
    if data.stat().st_uid != os.geteuid():
        raise Refused(
            f"{data} belongs to the portal's account: run this in that account, so that the "
            "portal can read the key."
        )
    public = portal_key(data, entry.id).with_suffix(".pub").read_text("utf-8").strip()
    return Output({"cluster": entry.id, "key": public}, public)


def _wheels(options: argparse.Namespace) -> Output:
    known = {f"{major}.{minor}": (major, minor) for major, minor in wheels.PYTHONS}
    if options.python not in known:
        raise InvalidInput(f"--python must be one of {', '.join(known)}.")
    target = wheels.Target(known[options.python], options.machine)
    folder = options.folder.expanduser().absolute()
    names = wheels.bring(target, folder)
    text = f"{len(names)} packages for Python {options.python} on {options.machine} are in {folder}"
    return Output({"folder": str(folder), "files": list(names)}, f"{text}.")


# --- inside ---------------------------------------------------------------------------------


def _entry(options: argparse.Namespace) -> ClusterEntry:
    return load_offerings(PROJECT).configured(ClusterId(options.cluster))


def _connection(
    options: argparse.Namespace, entry: ClusterEntry
) -> AbstractContextManager[NodeConnection]:
    refuse_portal(options.data, tunnel_folder())
    return signed_in(entry, options.user, _say)


def _host_key(entry: ClusterEntry, key: str, *, pin: bool) -> Iterator[str]:
    file = entry.file
    if entry.gate is not None and entry.gate.host_key == key:
        yield f"Its host key is the one that is pinned ({host_key_pin.fingerprint(key)})."
        return
    if pin and file is not None:
        host_key_pin.pin(file, key)
        yield f"Its host key is pinned in {file}: {host_key_pin.fingerprint(key)}"
        return
    may = file is not None and host_key_pin.may_pin(file)
    yield (
        f"Its host key is not pinned yet ({host_key_pin.fingerprint(key)}). The portal "
        f"connects once this stands in [gate] of {file}{' (--pin writes it)' if may else ''}:"
    )
    yield host_key_pin.line_for(key)


def _changed(done: Message, entry: ClusterEntry) -> str:
    same = done["before"] == done["here"]
    what = f"is at {done['here']}" + (" as before" if same else "")
    if not done["running"]:
        return f"The gate of cluster {entry.id} {what}, and does not run: admin.py gate start."
    return f"The gate of cluster {entry.id} {what} and runs: {_where(done)}. {_going_on(done)}"


def _where(done: Message) -> str:
    return f"process {done['pid']} on {done['this_node']}, port {done['port']}"


def _going_on(done: Message) -> str:
    live = done["live"]
    return (
        f"{live} session{'s go' if live != 1 else ' goes'} on." if live else "No session is live."
    )


def _status_lines(entry: ClusterEntry, done: Message, here: str) -> Iterator[str]:
    other = done["node"] not in ("", done["this_node"])
    if done["running"]:
        yield f"The gate of cluster {entry.id} runs: {_where(done)}."
    elif other:
        yield (
            f"The gate belongs to the node {done['node']}; whether it runs cannot be seen from "
            f"{done['this_node']}. Name {done['node']} as the host in [login] of {entry.file}."
        )
    else:
        yield f"The gate of cluster {entry.id} does not run: admin.py gate start {entry.id}"
    newer = "this one" if here == done["current"] else f"here is {here or 'none for that node'}"
    yield f"Version there: {done['current']}; {newer}."
    people = done["live_users"]
    yield (
        f"Live: {done['live']} sessions and runs of {people} "
        f"{'person' if people == 1 else 'people'}, {done['gpus']} GPUs."
    )
    if done["kill_switch"]:
        yield f"The kill switch is on: {done['kill_switch']}"
    yield from map(json_text, json_list(done["problems"]))


def _say(text: str) -> None:
    print(plain(text), file=sys.stderr, flush=True)


def _read_key(name: str) -> str:
    return _read_file(Path(name)).decode("utf-8", "replace")[:_MAX_KEY_BYTES]


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise InvalidInput(f"{file} cannot be read: {exc.strerror}.") from exc
