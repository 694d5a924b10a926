"""The firewall and the cables of the bed, by trying."""

import contextlib

import pytest

from testbed import BedError
from tests.sites.trying import (
    JUMP,
    LOGIN,
    NODES,
    OUTSIDE,
    at_once,
    listening,
    scan,
    scans,
    until,
)

# --- the firewall ------------------------------------------------------------------------


def inner(bed, name) -> str:
    return bed.host(name).machine.links["nchc"]


def outer(bed, name) -> str:
    return bed.host(name).machine.links["wan"]


@contextlib.contextmanager
def routes(host, addresses, gateway):
    """Somebody who is root on a host sends what is for those addresses to a gateway."""
    for address in addresses:
        host.run(["ip", "route", "add", f"{address}/32", "via", gateway])
    try:
        yield
    finally:
        for address in addresses:
            host.run(["ip", "route", "del", f"{address}/32"])


def test_from_outside_only_ssh_of_jump_and_login_is_reached(bed, open_port):
    places = {}
    for target in (JUMP, LOGIN):
        more, there = open_port(target, "u1001"), listening(bed.host(target))
        assert {22, more} <= there
        places[outer(bed, target)] = ["1-1024", more, *sorted(there)]
        # The port is open to whom it is for: the firewall is what keeps others away.
        assert more in scan(bed.host(NODES[0]), inner(bed, target), [more])
    for found in at_once(lambda name: scans(bed.host(name), places), *OUTSIDE):
        assert found == {outer(bed, JUMP): {22}, outer(bed, LOGIN): {22}}


def test_no_way_leads_from_outside_into_the_site_s_own_network(bed, open_port):
    targets = (JUMP, LOGIN, *NODES)
    ports = {name: open_port(name, "u1001") for name in targets}
    places = {inner(bed, name): ["1-200", ports[name], 6817, 6818] for name in targets}

    def tried(source):
        outside = bed.host(source)
        assert not any(scans(outside, places).values())
        # Not even for somebody who is root there and sends packets to the hosts with two links.
        for gateway in (JUMP, LOGIN):
            with routes(outside, places, outer(bed, gateway)):
                found = scans(outside, places)
            # An address of the gateway itself is answered by the gateway: by its sshd alone.
            assert {place: open_ for place, open_ in found.items() if open_} == {
                inner(bed, gateway): {22}
            }

    at_once(tried, *OUTSIDE)
    for name in targets:
        assert ports[name] in scan(bed.host(LOGIN), inner(bed, name), [ports[name]])


def test_compute_nodes_reach_nothing_outside(bed, open_port):
    ports = {name: open_port(name, "ada") for name in OUTSIDE}
    places = {outer(bed, name): ["1-200", 443, ports[name]] for name in OUTSIDE}

    def tried(node):
        here = bed.host(node)
        assert not any(scans(here, places).values())
        for gateway in (JUMP, LOGIN):
            with routes(here, places, inner(bed, gateway)):
                assert not any(scans(here, places).values())

    at_once(tried, *NODES)
    there = bed.host("portal")  # the sibling: its own port is open to itself
    assert ports["portal"] in scan(there, outer(bed, "portal"), [ports["portal"]])


def test_the_login_node_reaches_the_portal_but_nobody_the_administrators_computer(bed, open_port):
    portal, admin = open_port("portal", "ada"), open_port("admin", "ada")
    for source in (LOGIN, JUMP):
        assert scan(bed.host(source), outer(bed, "portal"), [portal])
    there = outer(bed, "admin")
    found = at_once(lambda name: scan(bed.host(name), there, [admin]), LOGIN, JUMP, "portal")
    assert not any(found)


# --- cables ------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [LOGIN, f"{LOGIN}:wan"])
def test_a_cut_link_carries_nothing_until_it_is_healed(bed, link):
    portal, login = bed.host("portal"), bed.host(LOGIN)
    login_inner = login.machine.links["nchc"]
    portal.connect(LOGIN, 22).close()
    bed.cut(link)
    try:
        with pytest.raises(OSError, match=r"timed out|[Nn]o route"):
            portal.connect(LOGIN, 22, timeout=1)
        inside = scan(bed.host(NODES[0]), login_inner, [6817])
        assert inside == ({6817} if link.endswith(":wan") else set())
    finally:
        bed.heal(link)
    portal.connect(LOGIN, 22).close()
    until(lambda: scan(bed.host(NODES[0]), login_inner, [6817]), "the inner link is back")


def test_a_link_that_is_not_there_cannot_be_cut(bed):
    for wrong in ("portal:nchc", "nowhere", "nchc-n1:wan"):
        with pytest.raises(BedError, match=r"no link|no host"):
            bed.cut(wrong)
