"""The firewall and the cables of the bed, by trying."""

import pytest

from testbed import BedError
from tests.sites.trying import JUMP, LOGIN, NODES, OUTSIDE, listening, scan, until

# --- the firewall ------------------------------------------------------------------------


@pytest.mark.parametrize("target", [JUMP, LOGIN])
@pytest.mark.parametrize("source", OUTSIDE)
def test_from_outside_only_ssh_of_jump_and_login_is_reached(bed, open_port, source, target):
    more = open_port(target, "u1001")
    there = bed.host(target)
    assert {22, more} <= listening(there)
    wan = there.machine.links["wan"]
    ports = ["1-1024", more, *sorted(listening(there))]
    assert scan(bed.host(source), wan, ports) == {22}
    # The port is open to whom it is for: the firewall is what keeps others away.
    assert more in scan(bed.host(NODES[0]), there.machine.links["nchc"], [more])


@pytest.mark.parametrize("target", [JUMP, LOGIN, *NODES])
@pytest.mark.parametrize("source", OUTSIDE)
def test_no_way_leads_from_outside_into_the_site_s_own_network(bed, open_port, source, target):
    port = open_port(target, "u1001")
    outside, address = bed.host(source), bed.host(target).machine.links["nchc"]
    assert scan(outside, address, ["1-200", port, 6817, 6818]) == set()
    # Not even for somebody who is root there and sends packets to the hosts with two links.
    for gateway in (JUMP, LOGIN):
        route = [f"{address}/32", "via", bed.host(gateway).machine.links["wan"]]
        outside.run(["ip", "route", "add", *route])
        try:
            found = scan(outside, address, ["1-200", port, 6817, 6818])
        finally:
            outside.run(["ip", "route", "del", *route])
        # An address of the gateway itself is answered by the gateway: by its sshd alone.
        assert found == ({22} if gateway == target else set())
    assert port in scan(bed.host(LOGIN), address, [port])


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("target", OUTSIDE)
def test_compute_nodes_reach_nothing_outside(bed, open_port, node, target):
    port = open_port(target, "ada")
    address = bed.host(target).machine.links["wan"]
    here = bed.host(node)
    assert scan(here, address, ["1-200", port]) == set()
    for gateway in (JUMP, LOGIN):
        inner = bed.host(gateway).machine.links["nchc"]
        here.run(["ip", "route", "add", f"{address}/32", "via", inner])
        try:
            assert scan(here, address, [22, 443, port]) == set()
        finally:
            here.run(["ip", "route", "del", f"{address}/32"])


def test_the_login_node_reaches_the_portal_but_nobody_the_administrators_computer(bed, open_port):
    portal, admin = open_port("portal", "ada"), open_port("admin", "ada")
    for source in (LOGIN, JUMP):
        assert scan(bed.host(source), bed.host("portal").machine.links["wan"], [portal])
    for source in (LOGIN, JUMP, "portal"):
        assert not scan(bed.host(source), bed.host("admin").machine.links["wan"], [admin])


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
    until(lambda: scan(bed.host(NODES[0]), login_inner, [6817]), 10, "the inner link is back")


def test_a_link_that_is_not_there_cannot_be_cut(bed):
    for wrong in ("portal:nchc", "nowhere", "nchc-n1:wan"):
        with pytest.raises(BedError, match=r"no link|no host"):
            bed.cut(wrong)
