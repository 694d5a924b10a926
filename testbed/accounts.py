"""Accounts, ssh keys and names of hosts: the files of /etc that all kinds of hosts need."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.errors import BedError
from testbed.sites import WAN, Machine, Person, Site

KEY = Path(".ssh/id_ed25519")

SSHD = """\
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
UsePAM no
UseDNS no
PermitRootLogin no
PubkeyAuthentication yes
PasswordAuthentication {passwords}
KbdInteractiveAuthentication no
AllowAgentForwarding yes
MaxStartups 100
LogLevel VERBOSE
Subsystem sftp internal-sftp
"""


def write(path: Path, content: str, owner: tuple[int, int] = (0, 0), mode: int = 0o644) -> None:
    """A file on a host's disk before the host starts; its folders become root's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)


def machine_account(name: str) -> tuple[int, int]:
    """uid and gid of an account that a package of the machine made."""
    for line in Path("/etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2]), int(fields[3])
    raise BedError(f"This machine has no account {name}; run: python3 -m testbed install")


def write_accounts(etc: Path, people: Sequence[Person]) -> None:
    """passwd and its kin: the machine's system accounts, and these people."""
    system = {}
    for name, field in (("passwd", 2), ("group", 2)):
        lines = Path("/etc", name).read_text().splitlines()
        # Debian gives 1000-59999 to people; "slurm" and "nobody" have numbers above.
        people_ids = range(1000, 60000)
        system[name] = [line for line in lines if int(line.split(":")[field]) not in people_ids]
    known = {line.split(":")[0] for line in system["passwd"]}
    shadow = [f"{name}:*:19000:0:99999:7:::" for name in sorted(known)]
    for person in people:
        name, uid = person.name, person.uid
        system["passwd"].append(f"{name}:x:{uid}:{uid}::/home/{name}:/bin/bash")
        system["group"].append(f"{name}:x:{uid}:")
        shadow.append(f"{name}:{hashed(person.password)}:19000:0:99999:7:::")
    ranges = [f"{person.name}:{person.uid * 65536}:65536" for person in people]
    for name, lines in system.items():
        write(etc / name, "\n".join(lines) + "\n")
    write(etc / "shadow", "\n".join(shadow) + "\n", mode=0o600)
    for name in ("subuid", "subgid"):
        write(etc / name, "\n".join(ranges) + "\n")


def hashed(password: str) -> str:
    """A password as /etc/shadow has it; "*" (none fits) for ""."""
    if not password:
        return "*"
    return command(["openssl", "passwd", "-6", "-stdin"], password + "\n").strip()


def write_homes(homes: Path, people: Sequence[Person], key: str) -> None:
    """Their folders, private, with ada's public key where she may log in."""
    for person in people:
        home = homes / person.name
        home.mkdir(parents=True)
        for name in (".bashrc", ".profile"):
            shutil.copyfile(f"/etc/skel/{name}", home / name)
        ssh = home / ".ssh"
        ssh.mkdir()
        if person.authorised:
            write(ssh / "authorized_keys", key)
        with (home / ".profile").open("a") as profile:
            for name, value in person.environment.items():
                profile.write(f"export {name}={value}\n")
        give(home, person)


def give(folder: Path, person: Person) -> None:
    """Make a folder and what is in it a person's own, closed to others."""
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, person.uid, person.uid)
        path.chmod(0o700 if path.is_dir() else 0o600)


def make_key(path: Path, comment: str) -> str:
    """A new ssh key; gives its public line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return path.with_name(path.name + ".pub").read_text()


def write_ssh(etc: Path, site: Site, known: str) -> None:
    """The server's settings; `known` are the host keys that the host's people trust."""
    passwords = any(person.password for person in site.people)
    write(etc / "ssh/sshd_config", SSHD.format(passwords="yes" if passwords else "no"))
    write(etc / "ssh/ssh_known_hosts", known)


def write_names(etc: Path, machine: Machine, site: Site, sites: Sequence[Site]) -> None:
    """hostname and hosts: its own site by the inner addresses, the rest by the wan's."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    for other in sites:
        for host in other.machines:
            address = inner_address(host) if other == site else host.links.get(WAN, "")
            if address:
                lines.append(f"{address} {host.name}")
    write(etc / "hosts", "\n".join(lines) + "\n")
    write(etc / "hostname", machine.name + "\n")
    write(etc / "resolv.conf", "# There is no DNS here: /etc/hosts has the names.\n")


def inner_address(machine: Machine) -> str:
    """Where the other hosts of its site find it."""
    inner = [address for network, address in machine.links.items() if network != WAN]
    return inner[0] if inner else machine.links[WAN]


def known_hosts(keys: Mapping[str, str], sites: Sequence[Site]) -> str:
    """Lines for ssh_known_hosts: each host by its name and all its addresses."""
    lines = []
    for site in sites:
        for host in site.machines:
            if key := keys.get(host.name):
                names = ",".join([host.name, *host.links.values()])
                lines.append(f"{names} {' '.join(key.split()[:2])}")
    return "\n".join(lines) + "\n"


def command(argv: Sequence[str], text: str = "") -> str:
    ended = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=300)
    if ended.returncode:
        raise BedError(f"{argv[0]} failed: {ended.stderr.strip()}")
    return ended.stdout
