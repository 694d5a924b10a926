"""What the test-bed needs of a Debian 12, and how it comes there.

Debian's own packages come by apt; no daemon of theirs is started. Apptainer is in sid only.
Installing it from there would bring sid's libc with it, so its package is unpacked instead,
and its two programs get a libc of their own in `PRIVATE`; nothing else uses that.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import BedError

INSTALL = "python3 -m testbed install"

#: Program (looked up on root's search path) -> the Debian package that has it.
PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "sysctl": "procps",
    "openssl": "openssl",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "patchelf": "patchelf",
    "mksquashfs": "squashfs-tools",
    "squashfuse_ll": "squashfuse",
    "fuse-overlayfs": "fuse-overlayfs",
    "fusermount3": "fuse3",
    "newuidmap": "uidmap",
}
#: Libraries that Apptainer's programs need, each taken from where Apptainer comes from.
APPTAINER_LIBRARIES = ("libc6", "libseccomp2", "libsqlite3-0")
#: What the networks need of the kernel, and what shows whether it is there.
PROBES = {
    "bridges": ("ip", "link", "add", "name", "probe", "type", "bridge"),
    "virtual Ethernet": ("ip", "link", "add", "name", "probe", "type", "veth"),
    "nftables with connection tracking": (
        "nft",
        "add table inet t; add chain inet t c; add rule inet t c ct state established accept",
    ),
}
PRIVATE = Path("/opt/apptainer-libc")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that is missing, and what mends it ("" where nothing here can)."""

    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}" if self.mend else self.what


def check() -> None:
    """Raises BedError where anything is missing, with what mends it."""
    if found := lacks():
        raise BedError("The test-bed cannot come up: " + "; ".join(map(str, found)) + ".")


def lacks() -> list[Lack]:
    """Everything that keeps the test-bed from coming up on this machine."""
    if os.geteuid():
        # Not everything can be looked at by others.
        return [Lack("it needs root", "run it as root")]
    found = []
    programs = [name for name in PROGRAMS if not which(name)]
    if not apptainer_version():
        programs.append("apptainer")
    if programs:
        found.append(Lack(f"not installed: {', '.join(programs)}", f"run: {INSTALL}"))
    found += [Lack(what, "use a kernel that has it") for what in kernel_lacks()]
    return found


def kernel_lacks() -> Iterator[str]:
    """What the kernel cannot do, as far as it can be seen without doing it."""
    filesystems = Path("/proc/filesystems").read_text().split()
    for name in ("overlay", "tmpfs", "fuse"):
        # A module that is not loaded yet is not in the list either.
        if name not in filesystems and subprocess.run(["modprobe", "-q", name]).returncode:
            yield f"the kernel has no file system {name}"
    for what, command in PROBES.items():
        if which(command[0]) and run_probe(command):
            yield f"the kernel has no {what}"
    for name in ("net", "mnt", "pid", "uts", "ipc", "user", "cgroup"):
        if not Path(f"/proc/self/ns/{name}").exists():
            yield f"the kernel has no {name} namespaces"


def run_probe(command: Sequence[str]) -> int:
    """Try something in a network namespace that goes with it; gives the exit code."""
    argv = ["unshare", "--net", "--", *command]
    return subprocess.run(argv, capture_output=True, timeout=300, env={"PATH": PATH}).returncode


def which(program: str) -> str | None:
    return shutil.which(program, path=PATH)


def apptainer_version() -> str:
    """ "1.4.5" where Apptainer is there and runs, else ""."""
    with suppress(OSError, subprocess.TimeoutExpired):
        asked = subprocess.run(
            ["/usr/bin/apptainer", "--version"], capture_output=True, text=True, timeout=300
        )
        if asked.returncode == 0 and (found := re.search(r"\d+\.\d+\.\d+", asked.stdout)):
            return found[0]
    return ""


def install() -> list[str]:
    """Install what is missing; quick where nothing is.

    Returns:
        one line for each thing that was done.
    Raises:
        BedError: this is no Debian 12 with root, or apt failed.
    """
    if os.geteuid():
        raise BedError(f"Installing needs root; run as root: {INSTALL}")
    if not which("apt-get"):
        raise BedError("The test-bed installs on Debian 12 only: there is no apt-get here.")
    done = []
    if packages := sorted({package for name, package in PROGRAMS.items() if not which(name)}):
        with no_daemons():
            apt_get("update", "-q")
            apt_get("install", "-q", "-y", "--no-install-recommends", *packages)
        done.append(f"installed {', '.join(packages)}")
    if not apptainer_version():
        install_apptainer()
        version = apptainer_version()
        if not version:
            raise BedError("Apptainer was unpacked but does not run: see apptainer --version.")
        done.append(f"installed Apptainer {version}")
    return done


@contextmanager
def no_daemons() -> Iterator[None]:
    """Keep packages from starting their daemons, by Debian's own switch for that.

    A `policy-rc.d` that is there already belongs to whoever runs this machine, and stays.
    """
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink(missing_ok=True)


def apt_get(*arguments: str, cwd: Path | None = None) -> None:
    """Raises BedError with apt's own last lines."""
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments]
    run(command, cwd=cwd, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})


def run(
    command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    """Run a program of the installation and give its output.

    Raises:
        BedError: it failed; the message has its last lines.
    """
    ended = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    if ended.returncode:
        lines = "\n".join(ended.stdout.strip().splitlines()[-6:])
        raise BedError(f"{' '.join(command[:4])} ... failed (exit {ended.returncode}):\n{lines}")
    return ended.stdout


# --- Apptainer ------------------------------------------------------------------------


def install_apptainer() -> None:
    """Unpack Apptainer of sid, and give its programs the libc that they were built for."""
    with tempfile.TemporaryDirectory(prefix="testbed-apt-") as name:
        folder = Path(name)
        download("sid", ["apptainer", *APPTAINER_LIBRARIES], folder)
        shutil.rmtree(PRIVATE, ignore_errors=True)
        PRIVATE.mkdir(parents=True)
        for library in APPTAINER_LIBRARIES:
            run(["dpkg-deb", "-x", one(folder, library), str(PRIVATE)])
        unpack_programs(one(folder, "apptainer"), folder)
    triplet = multiarch()
    libraries = f"{PRIVATE}/usr/lib/{triplet}"
    loaders = sorted(Path(libraries).glob("ld-linux-*.so.*"))
    if not loaders:
        raise BedError(f"The libc unpacked to {PRIVATE} has no loader; the layout has changed.")
    starter = f"/usr/lib/{triplet}/apptainer/bin/starter"
    for program in ("/usr/bin/apptainer", starter):
        rpath = f"{libraries}:/lib/{triplet}:/usr/lib/{triplet}"
        changes = ["--set-interpreter", str(loaders[0]), "--force-rpath", "--set-rpath", rpath]
        run(["patchelf", *changes, program])
    link = Path("/usr/bin/singularity")
    if not link.exists():
        link.symlink_to("apptainer")


def multiarch() -> str:
    """ "x86_64-linux-gnu", by dpkg."""
    name = run(["dpkg", "--print-architecture"]).strip()
    names = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
    if name not in names:
        raise BedError(f"Apptainer cannot be installed here: unknown architecture {name}.")
    return names[name]


def unpack_programs(deb: str, scratch: Path) -> None:
    """Unpack a package over / without its documentation."""
    archive = scratch / "programs.tar"
    with archive.open("wb") as out:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], stdout=out, check=True, timeout=120)
    # Without --keep-directory-symlink tar would put a folder where /lib links to /usr/lib.
    left_out = [f"--exclude=./usr/share/{name}*" for name in ("doc", "man", "lintian")]
    run(["tar", "-x", "-f", str(archive), "-C", "/", "--keep-directory-symlink", *left_out])


def one(folder: Path, package: str) -> str:
    """The one downloaded file of a package."""
    found = sorted(folder.glob(f"{package}_*.deb"))
    if len(found) != 1:
        raise BedError(f"apt downloaded {len(found)} files for {package}, not one.")
    return str(found[0])


def download(suite: str, packages: Sequence[str], folder: Path) -> None:
    """Download packages of another Debian suite into a folder.

    apt works on a state of its own below `folder`, so that the machine's package lists and
    priorities stay as they are; its way to the mirror (proxies, ...) is the machine's.
    """
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    source = folder / "sources.list"
    source.write_text(f"deb [signed-by={keyring}] {mirror()} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    flags = [f"-o{name}={value}" for name, value in options.items()]
    apt_get(*flags, "-q", "update")
    apt_get(*flags, "-q", "download", *packages, cwd=folder)


def mirror() -> str:
    """The Debian mirror that this machine uses already."""
    for path in sorted([*Path("/etc/apt").glob("sources.list"), *sources_of_parts()]):
        for line in path.read_text(errors="replace").splitlines():
            # "URIs: http://..." of deb822, or "deb [...] http://... suite main".
            found = re.match(r"\s*(?:URIs:|deb\s+(?:\[[^\]]*\]\s+)?)\s*(https?://\S+)", line)
            if found and re.search(r"/debian/?$", found[1]):
                return found[1]
    raise BedError("No Debian mirror is named in /etc/apt; Apptainer is taken from the same one.")


def sources_of_parts() -> Iterator[Path]:
    parts = Path("/etc/apt/sources.list.d")
    yield from parts.glob("*.list")
    yield from parts.glob("*.sources")
