"""Who can do what about a cluster that cannot be asked, from what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.auth import OWNER
from lib.model import Fault, TunnelState

if TYPE_CHECKING:
    from lib.config.clusters import ClusterEntry
    from lib.model import Tunnel

#: For whom, and what: a command that can be copied, or a sentence.
Advice = tuple[str, str]

_ANYBODY = "An administrator of the portal's computer"
LOOKS_AFTER_PORTAL = "Whoever looks after this portal"
_GATE = "Whoever looks after the cluster's gate"


def advice(
    entry: ClusterEntry, tunnel: Tunnel | None, fault: str, *, one_person: bool = False
) -> tuple[Advice, ...]:
    """What to do, most likely first; empty where there is nothing but to wait.

    Args:
        tunnel: None for this computer, whose gate the portal starts by itself.
        fault: why the cluster cannot be asked.
        one_person: the portal has no groups, so a tunnel can only be its owner's.
    """
    if fault == Fault.SCHEDULER:
        site = entry.institute or entry.title
        return (
            (
                f"The help desk of {site}",
                f"The scheduler of {entry.title} does not answer its login node. There is "
                "nothing to do in the portal: it goes on by itself.",
            ),
        )
    if tunnel is None:
        return ((LOOKS_AFTER_PORTAL, "python admin.py doctor"),)
    if fault == Fault.NOT_SET_UP:
        return _set_up(entry, _ANYBODY)
    if tunnel.state is not TunnelState.OPEN:
        who = f"The administrator who opened it ({tunnel.account})" if tunnel.account else _ANYBODY
        return ((who, _tunnel_up(entry, tunnel, one_person=one_person)),)
    return _through_an_open_tunnel(entry, tunnel, fault)


def _through_an_open_tunnel(entry: ClusterEntry, tunnel: Tunnel, fault: str) -> tuple[Advice, ...]:
    opener = f"The administrator who opened the tunnel ({tunnel.account})"
    match fault:
        case Fault.GATE:
            return ((opener, f"python admin.py gate start {entry.id}"),)
        case Fault.HOST_KEY:
            return (
                (
                    _GATE,
                    "Was the gate set up again? If so, compare the key that `admin.py gate "
                    f"status {entry.id}` shows, put it into the cluster's file as host_key. "
                    "If not, somebody else answers there: pin nothing.",
                ),
                (opener, f"python admin.py gate status {entry.id}"),
            )
        case Fault.KEY_REFUSED:
            return _set_up(entry, opener)
        case Fault.KEY:
            return ((LOOKS_AFTER_PORTAL, "python admin.py doctor"),)
        case Fault.SOCKET | Fault.TUNNEL:
            return ((opener, f"python admin.py tunnel status {entry.id}"),)
    return (
        (opener, f"python admin.py tunnel status {entry.id}"),
        (opener, f"python admin.py gate status {entry.id}"),
    )


def _set_up(entry: ClusterEntry, who: str) -> tuple[Advice, ...]:
    """The gate has to admit the portal's key, and the portal to know the gate's."""
    return (
        (LOOKS_AFTER_PORTAL, f"python admin.py gate key {entry.id}"),
        (who, f"python admin.py gate deploy {entry.id} --portal-key KEY"),
        (
            LOOKS_AFTER_PORTAL,
            "If another host key was printed than the cluster's file has, write it there as "
            "host_key; the portal takes it over.",
        ),
    )


def _tunnel_up(entry: ClusterEntry, tunnel: Tunnel, *, one_person: bool) -> str:
    """As it was opened last, or for the first group that the cluster's file names."""
    if one_person:
        owner = f"--person {OWNER.id}"
    elif tunnel.person is not None:
        owner = f"--person {tunnel.person}"
    else:
        named = [group for group in entry.groups if group != "everyone"]
        owner = f"--group {tunnel.group or (named[0] if named else 'GROUP')}"
    return f"python admin.py tunnel up {entry.id} {owner}"
