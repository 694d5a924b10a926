"""`tunnel up|down|status|list|admit`: the outer tunnels, on the portal host.

`admit` is root's. The others are run by administrators in their own accounts, who need not
be able to read the portal's data.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from lib.cli.output import Commands, Output, command, moment, plain, table
from lib.config.offerings import load_offerings
from lib.config.settings import PROJECT
from lib.config.settings.checks import name
from lib.config.site_paths import tunnel_folder
from lib.errors import InvalidInput
from lib.model import ClusterId, JsonValue, Seal
from lib.protocol.messages import NAME_PATTERN
from lib.tunnels.outer import admission, closing, opening
from lib.tunnels.outer.records import TunnelRecord, is_open, latest

if TYPE_CHECKING:
    import argparse

_DAYS, _DAY_S, _HOUR_S = 7.0, 86400.0, 3600.0
_HEAD = ("CLUSTER", "STATE", "OPENED BY", "FOR", "KEY", "SINCE (UTC)", "UNTIL (UTC)", "WHY CLOSED")


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add all of them."""
    group = commands.add_parser("tunnel", help="the connections to clusters' gates")
    part = group.add_subparsers(metavar="COMMAND", required=True)
    up = command(
        part, "up", _up, common,
        "Open the tunnel to a cluster, as an administrator in an account of your own; it stays "
        "when you log out.",
    )  # fmt: skip
    up.add_argument("cluster", metavar="CLUSTER")
    up.add_argument("--user", default="", metavar="ACCOUNT", help="your account on the cluster")
    owner = up.add_mutually_exclusive_group(required=True)
    owner.add_argument("--group", default="", metavar="GROUP", help="whose members launch there")
    owner.add_argument("--person", default="", metavar="USERID", help="who alone launches there")
    life = up.add_mutually_exclusive_group()
    life.add_argument("--days", type=float, default=_DAYS, help="until it closes (default: 7)")
    life.add_argument("--hours", type=float, help="the same in hours")
    up.add_argument(
        "--key", default="", metavar="KEY",
        help="use this key of your agent alone: its comment or fingerprint",
    )  # fmt: skip
    down = command(part, "down", _down, common, "Close your tunnel to a cluster.")
    down.add_argument("cluster", metavar="CLUSTER")
    status = command(part, "status", _status, common, "Show the tunnel to a cluster.")
    status.add_argument("cluster", metavar="CLUSTER")
    command(part, "list", _list, common, "List the tunnels to all clusters.")
    admit = command(part, "admit", _admit, common, "As root: let an account open tunnels.")
    admit.add_argument("account", metavar="ACCOUNT")
    admit.add_argument(
        "--portal-group", default=admission.PORTAL_GROUP, metavar="GROUP",
        help=f"the group of the portal's account (default: {admission.PORTAL_GROUP})",
    )  # fmt: skip


def _up(options: argparse.Namespace) -> Output:
    entry = load_offerings(PROJECT).configured(ClusterId(options.cluster))
    if options.group:
        name(options.group, "--group")
    elif not options.person.isprintable() or not options.person.strip():
        raise InvalidInput("--person must be the id of a person (`admin.py users list`).")
    hours = options.days * _DAY_S if options.hours is None else options.hours * _HOUR_S
    request = opening.TunnelRequest(options.user, options.group, options.person, hours, options.key)
    opened = opening.open_tunnel(entry, request, tunnel_folder(), _say)
    record = opened.record
    lines = [
        f"The tunnel to cluster {entry.id} is open until {_moment(record.until)} UTC, for "
        f"{_owner(record)}.",
        f"{_SEALS[record.seal]} {record.seal_note}".rstrip(),
        *opened.warnings,
        "You may log out now: it stays. Nothing of your agent is kept here. To close it before "
        f"its time: `admin.py tunnel down {entry.id}`",
    ]
    value = {**_brief(record, opened=True), "warnings": list(opened.warnings)}
    return Output(value, "\n".join(lines))


def _down(options: argparse.Namespace) -> Output:
    cluster = _cluster(options.cluster)
    closed = closing.close_tunnel(tunnel_folder(), cluster)
    text = f"The tunnel to cluster {cluster} is closed."
    if not closed:
        text = f"No tunnel to cluster {cluster} is open."
    return Output({"cluster": cluster, "closed": len(closed)}, text)


def _status(options: argparse.Namespace) -> Output:
    cluster = _cluster(options.cluster)
    value, row, note = _known(cluster)
    return Output(value, "\n".join(filter(None, (table(_HEAD, [row]), note))))


def _list(options: argparse.Namespace) -> Output:  # noqa: ARG001
    clusters = [c.id for c in load_offerings(PROJECT).clusters.values() if c.login is not None]
    known = [_known(cluster) for cluster in clusters]
    text = table(_HEAD, [row for _, row, _ in known])
    return Output([value for value, _, _ in known], text if known else "No cluster needs one.")


def _admit(options: argparse.Namespace) -> Output:
    folder = admission.admit(tunnel_folder(), options.account, options.portal_group)
    text = (
        f"{options.account} may open tunnels now; their sockets and records lie in {folder}, "
        f"where the group {options.portal_group} may use and read them."
    )
    return Output({"account": options.account, "folder": str(folder)}, text)


def _cluster(text: str) -> ClusterId:
    """It need not be in the catalog any more."""
    if NAME_PATTERN.fullmatch(text) is None:
        raise InvalidInput(f"{text!r:.60} is not the id of a cluster.")
    return ClusterId(text)


def _known(cluster: ClusterId) -> tuple[dict[str, JsonValue], tuple[object, ...], str]:
    """What may be known of a cluster's tunnel in this account: value, row, and a note."""
    found = latest(tunnel_folder(), cluster)
    if found is None or not is_open(*found):
        other = closing.owner_of_open_tunnel(tunnel_folder(), cluster)
        if other and (found is None or found[1].account != other):
            note = f"Only {other}, root and the portal may read more of {other}'s tunnel."
            value: dict[str, JsonValue] = {"cluster": cluster, "state": "open", "account": other}
            return value, (cluster, "open", other, "?", "?", "?", "?", ""), note
    if found is None:
        return {"cluster": cluster, "state": "none"}, (cluster, "none", *("-",) * 5, ""), ""
    record = found[1]
    value = _brief(record, opened=is_open(*found))
    row = (
        cluster, value["state"], record.account, _owner(record), record.seal.value,
        _moment(record.opened_at), _moment(record.until), value["reason"],
    )  # fmt: skip
    return value, row, record.seal_note


def _brief(record: TunnelRecord, *, opened: bool) -> dict[str, JsonValue]:
    value = asdict(record)
    del value["pid"], value["start"]
    reason = "" if opened else record.reason or "The process that looked after it was ended."
    if not opened and not record.reason and record.until <= time.time():
        reason = "Its time is over."
    state = "open" if opened else "closed"
    return {**value, "state": state, "seal": record.seal.value, "reason": reason}


def _owner(record: TunnelRecord) -> str:
    return f"group {record.group}" if record.group else f"person {record.person}"


def _moment(seconds: float) -> str:
    return moment(datetime.fromtimestamp(seconds, timezone.utc))


def _say(text: str) -> None:
    """While it goes on; on stderr, because the answer may be for a program."""
    print(plain(text), file=sys.stderr, flush=True)


_SEALS = {
    Seal.SEALED: "Sealed: its key can do nothing on the cluster but reach the gate.",
    Seal.UNSEALED: "Not sealed:",
    Seal.UNKNOWN: "Whether its key is sealed could not be tested:",
}
