"""The links of a portal: to the gate of this computer, and through tunnels to the others."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from lib.errors import ClusterUnreachable, InvalidInput, Unavailable
from lib.model import ClusterId, Fault
from lib.server.local_gate import LocalGate
from lib.tunnels.gate_address import TcpAddress
from lib.tunnels.link import ClusterLink
from lib.tunnels.master import Master
from lib.tunnels.portal_keys import portal_key
from lib.tunnels.ssh_options import ConnectionFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.config.clusters import ClusterEntry
    from lib.config.offerings import Offerings
    from lib.config.settings import Settings
    from lib.portal.tunnels import OuterTunnels
    from lib.reconciler.interfaces import Link
    from lib.tunnels.gate_address import SocketAddress

log = logging.getLogger(__name__)


def links(
    settings: Settings, offerings: Offerings, tunnels: OuterTunnels
) -> Mapping[ClusterId, Link]:
    """A link per cluster whose gate was set up; a key for every cluster, as that needs one.

    A cluster that cannot be linked is left out and said in the log: the others go on.

    Raises:
        Unavailable, ClusterUnreachable: this computer's own gate did not start.
    """
    found: dict[ClusterId, Link] = {}
    for cluster, entry in offerings.clusters.items():
        if entry.embedded:
            found[cluster] = _embedded(settings, offerings, cluster)
            continue
        try:
            link = through_a_tunnel(settings, entry, tunnels)
        except (Unavailable, InvalidInput) as exc:
            log.error("cluster %s is left out: %s", cluster, exc)
            continue
        if link is not None:
            found[cluster] = link
    return found


async def end_masters(settings: Settings) -> None:
    """End every ssh master of this portal, of clusters that it no longer has too.

    Jobs and notebooks on clusters go on; the next start connects to them again.
    """
    for record in sorted(settings.runtime.glob("*.json")):
        cluster = ClusterId(record.stem)
        with suppress(InvalidInput):
            places = ConnectionFiles(cluster, settings.runtime)
            await Master(places, settings.data / "keys" / cluster).end()


def through_a_tunnel(
    settings: Settings, entry: ClusterEntry, tunnels: OuterTunnels
) -> ClusterLink | None:
    """The link, and the key that it needs; None while the file has no host key to trust.

    Raises:
        Unavailable, InvalidInput: there is no key, or no link can be made with this file.
    """
    key = portal_key(settings.data, entry.id)
    if entry.gate is None or not entry.gate.host_key:
        return None

    def address() -> SocketAddress:
        return tunnels.reach(entry.id)

    return ClusterLink(
        entry.id,
        gate_address=address,
        key=key,
        host_key=entry.gate.host_key,
        runtime=settings.runtime,
    )


def _embedded(settings: Settings, offerings: Offerings, cluster: ClusterId) -> ClusterLink:
    gate = LocalGate(settings, offerings)
    if gate.address() is None:  # `./run` has started it; `streamlit run app.py` has not
        gate.start()

    def address() -> TcpAddress:
        address = gate.address()
        if address is None:
            raise ClusterUnreachable(
                "The gate of this computer is not running; it is started.", fault=Fault.GATE
            )
        return TcpAddress("127.0.0.1", address.port)

    key = portal_key(settings.data, cluster)
    return ClusterLink(
        cluster,
        gate_address=address,
        key=key,
        host_key=key.with_suffix(".host").read_text("utf-8"),
        runtime=settings.runtime,
    )
