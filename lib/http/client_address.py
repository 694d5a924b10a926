"""Which client a connection or a request is from."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What one household or institute gets of IPv6, all of which one computer may use.
_IPV6_PREFIX = 64


def client_of(
    peer: str, headers: Iterable[tuple[bytes, bytes]], front_servers: frozenset[str]
) -> str:
    """The address of who asks: the last hop that is not one of our own front servers.

    Args:
        peer: the address that the connection comes from.
        headers: of the request, their names in small letters.
    """
    address = peer
    if address not in front_servers:
        return address
    said = b",".join(value for name, value in headers if name == b"x-forwarded-for")
    for hop in reversed(said.decode("latin-1").split(",")):
        try:
            address = str(ipaddress.ip_address(hop.strip()))
        except ValueError:
            return address
        if address not in front_servers:
            return address
    return address


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """What is counted as one client: an IPv4 address, or the network of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), _IPV6_PREFIX), strict=False))
