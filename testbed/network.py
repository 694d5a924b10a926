"""The networks between hosts: bridges in the bed's namespace, one cable per link.

A cable is a pair of virtual interfaces: `HOST.NUMBER` on the bed's side, the network's name
on the host's. Cutting it takes the bed's side down, so the host loses its carrier.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence

from testbed.errors import BedError
from testbed.sites import WAN, Machine

PREFIX = 24
PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def in_network(pid: int, command: Sequence[str], text: str = "", *, check: bool = True) -> str:
    """Run a program of the machine in the network of a process; gives its output."""
    ended = subprocess.run(
        ["nsenter", f"--target={pid}", "--net", "--", *command],
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
        env=PATH,
    )
    if check and ended.returncode:
        raise BedError(f"{' '.join(command)} failed: {ended.stderr.strip()}")
    return ended.stdout


def ip(pid: int, lines: Iterable[str], *, check: bool = True) -> None:
    """Run several `ip` commands in the network of a process."""
    forced = [] if check else ["-force"]
    in_network(pid, ["ip", *forced, "-batch", "-"], "\n".join(lines) + "\n", check=check)


def make_bridges(bed: int, networks: Iterable[str]) -> None:
    commands = []
    for name in networks:
        commands += [f"link add name {name} type bridge forward_delay 0", f"link set {name} up"]
    ip(bed, commands)


def cable(machine: Machine, network: str) -> str:
    return f"{machine.name}.{list(machine.links).index(network)}"


def plug_in(bed: int, host: int, machine: Machine, addresses: Mapping[str, str]) -> None:
    """Connect a host that has just been started, behind its firewall.

    Args:
        addresses: of the hosts on the wan, by name.
    """
    unplug(bed, machine)
    in_network(host, ["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])
    in_network(host, ["nft", "-f", "-"], firewall(machine, addresses))
    ours, theirs = [], ["link set lo up"]
    for name, address in machine.links.items():
        end = cable(machine, name)
        ours.append(
            f"link add {end} type veth peer name {name} address {mac(address)} netns {host}"
        )
        ours.append(f"link set {end} master {name} up")
        theirs += [f"addr add {address}/{PREFIX} dev {name}", f"link set {name} up"]
    ip(bed, ours)
    ip(host, theirs)


def unplug(bed: int, machine: Machine) -> None:
    """Remove a host's cables, where there are any.

    Those of a host whose process 1 was killed by others stay for a while: the kernel takes
    its network down later.
    """
    ip(bed, [f"link del {cable(machine, name)}" for name in machine.links], check=False)


def mac(address: str) -> str:
    """A card's number that stays when its host is powered off: the others remember it."""
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def firewall(machine: Machine, addresses: Mapping[str, str]) -> str:
    """The host's nftables.

    From the wan a guarded host is reached on port 22, by the hosts that it is open to. A
    host without a link to the wan speaks with its own networks only. Nobody forwards, so a
    host with two links is no way from one network into the other.
    """
    rules = ["ct state established,related accept"]
    if "sshd" in machine.services:
        sources = ", ".join(addresses[name] for name in machine.open_to)
        rules.append(f"{f'ip saddr {{ {sources} }} ' if sources else ''}tcp dport 22 accept")
    rules.append("drop")
    guard = f'iifname "{WAN}" jump outside' if machine.guarded else ""
    inside = ", ".join(f'"{name}"' for name in ("lo", *machine.links))
    return f"""
table inet testbed {{
  chain outside {{ {"; ".join(rules)}; }}
  chain input {{ type filter hook input priority 0; policy accept; {guard}; }}
  chain forward {{ type filter hook forward priority 0; policy drop; }}
  chain output {{ type filter hook output priority 0; policy drop; oifname {{ {inside} }} accept; }}
}}
""".replace("accept; ; }", "accept; }")


def cut_cables(bed: int) -> set[str]:
    """The cables, by their ends on the bed's side, that are taken down."""
    links = json.loads(in_network(bed, ["ip", "-json", "link"]))
    return {link["ifname"] for link in links if "UP" not in link["flags"]}


def set_cables(bed: int, machine: Machine, networks: Iterable[str], *, up: bool) -> None:
    state = "up" if up else "down"
    ip(bed, [f"link set {cable(machine, name)} {state}" for name in networks])
