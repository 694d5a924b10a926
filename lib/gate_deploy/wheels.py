"""The packages that go along, as wheels for the cluster's Python and processor.

`gate-requirements.txt` pins each file by its SHA-256. They come from a folder that somebody
filled (`--wheels`), from the cache of earlier times, or through pip, which knows where this
computer gets its packages. The login node needs neither pip nor internet.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import InvalidInput, NotFound, Refused, Unavailable
from lib.gate_deploy.bundle import BundleFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PINS = Path(__file__).with_name("gate-requirements.txt")
MACHINES = ("x86_64", "aarch64")
PYTHONS = tuple((3, minor) for minor in range(10, 15))
_OLDEST_GLIBC = (2, 17)
_PIP_TIMEOUT_S = 300.0
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9_-]+)==(?P<version>[0-9A-Za-z.]+)"
    r"(?: ; (?P<marker>python_version [<>=]+ \"3\.\d+\"))?"
    r"(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)"
)
_MARKER = re.compile(r"python_version (?P<sign><|>=) \"(?P<than>3\.\d+)\"")
_WHEEL = re.compile(
    r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>[^-]+)-(?P<python>[^-]+)-(?P<abi>[^-]+)"
    r"-(?P<platform>[^-]+)\.whl"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A CPython on Linux with glibc. `python` is (3, 11); `machine` is "x86_64"."""

    python: tuple[int, int]
    machine: str

    @property
    def tag(self) -> str:
        """A name for folders."""
        return f"cp{self.python[0]}{self.python[1]}-{self.machine}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """Names that pip knows it by; every node with glibc 2.17 or newer takes them."""
        return (f"manylinux2014_{self.machine}", f"manylinux_2_17_{self.machine}")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package: exactly one of these files."""

    name: str
    version: str
    hashes: frozenset[str]


def target_of(python: Sequence[int], machine: str, system: str, libc: Sequence[str]) -> Target:
    """What the login node said, as something that there are wheels for.

    Raises:
        Refused: there are none for it.
    """
    found = (int(python[0]), int(python[1]))
    release = tuple(int(n) for n in re.findall(r"\d+", libc[1])[:2]) if libc[0] == "glibc" else ()
    if system != "Linux" or release < _OLDEST_GLIBC:
        raise Refused(
            "The gate runs on login nodes with Linux and glibc 2.17 or newer; this one has "
            f"{system} and {' '.join(libc).strip() or 'another C library'}."
        )
    if found not in PYTHONS or machine not in MACHINES:
        raise Refused(
            f"There are no packages for Python {found[0]}.{found[1]} on {machine}: it must be "
            f"Python 3.10 to 3.14 on {' or '.join(MACHINES)}. Name another Python of the cluster "
            "in [gate] of the cluster file."
        )
    return Target(found, machine)


def pins_for(target: Target) -> list[Pin]:
    """What that target needs, from the pinned file."""
    pins = []
    text = PINS.read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(re.sub(r" +", " ", line.strip()))
        if found is None:
            raise InvalidInput(f"{PINS}: {line[:60]!r} is not understood.")
        if found["marker"] and not applies(found["marker"], target):
            continue
        hashes = frozenset(h.partition("sha256:")[2] for h in found["hashes"].split())
        pins.append(Pin(found["name"], found["version"], hashes))
    return pins


def applies(marker: str, target: Target) -> bool:
    """Whether a marker of the pinned file holds; pip would ask about this Python instead."""
    found = _MARKER.fullmatch(marker)
    if found is None:
        raise InvalidInput(f"{PINS}: {marker!r:.60} is not understood.")
    than = tuple(int(n) for n in found["than"].split("."))
    return (target.python < than) == (found["sign"] == "<")


def wheels_for(target: Target, folder: Path | None) -> list[BundleFile]:
    """The wheels of a target, each checked.

    Args:
        folder: where they lie; None takes the cache, and fills it through pip.
    Raises:
        NotFound: a wheel is not there.
        Refused: a file has another checksum than the pinned one.
        Unavailable: pip could not get it.
    """
    pins = pins_for(target)
    if folder is not None:
        if not folder.is_dir():
            raise NotFound(f"There is no folder {folder}.")
        return _select(pins, target, folder)
    cache = cache_folder() / target.tag
    try:
        return _select(pins, target, cache)
    except (NotFound, Refused):
        _download(pins, target, cache)
        return _select(pins, target, cache)


def bring(target: Target, into: Path) -> list[str]:
    """Bring the wheels of a target into a folder, for `--wheels` where there is no internet.

    Raises:
        Unavailable: pip could not get them, or the folder cannot be written.
    """
    pieces = wheels_for(target, None)
    try:
        into.mkdir(parents=True, exist_ok=True)
        for piece in pieces:
            (into / Path(piece.path).name).write_bytes(piece.data)
    except OSError as exc:
        raise Unavailable(f"The folder {into} cannot be written: {exc.strerror}.") from exc
    return [Path(piece.path).name for piece in pieces]


def cache_folder() -> Path:
    """Where wheels are kept for the next time."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "scenebridge-gate"


def pip_arguments(
    target: Target, requirements: Path, folder: Path, *, hashes: bool = True
) -> list[str]:
    """For `python -m pip`: exactly the pinned wheels of another Python and processor."""
    major, minor = target.python
    wanted = ["--python-version", f"{major}.{minor}", "--implementation", "cp"]
    for abi in (f"cp{major}{minor}", "abi3", "none"):
        wanted += ["--abi", abi]
    for platform in target.platforms:
        wanted += ["--platform", platform]
    return [
        *("download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:"),
        *(["--require-hashes"] if hashes else []),
        *(*wanted, "--dest", str(folder), "--requirement", str(requirements)),
    ]


def _download(pins: Iterable[Pin], target: Target, cache: Path) -> None:
    """Fill the cache's folder of a target anew; others may read it, or fill it too, meanwhile."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as aside:
        got = Path(aside, "wheels")
        lines = (
            " ".join([f"{p.name}=={p.version}", *(f"--hash=sha256:{h}" for h in sorted(p.hashes))])
            for p in pins
        )
        fetch(lines, target, got)
        wheels = {wheel.name: wheel for wheel in got.iterdir()}
        for name, wheel in wheels.items():
            wheel.replace(cache / name)
        for old in cache.iterdir():
            if old.name not in wheels:
                old.unlink(missing_ok=True)


def fetch(lines: Iterable[str], target: Target, folder: Path, *, hashes: bool = True) -> None:
    """Let pip fetch the wheels of these requirement lines. Raises `Unavailable`."""
    requirements = folder.with_name("requirements.txt")
    requirements.write_text("\n".join(lines) + "\n", "utf-8")
    _pip(pip_arguments(target, requirements, folder, hashes=hashes))


def _pip(arguments: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PIP_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable("pip did not get the gate's packages in time.") from exc
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = lines[0].removeprefix("ERROR: ") if lines else done.stderr.strip()[-300:]
        raise Unavailable(
            f"pip could not get the gate's packages: {said} Where this computer has no internet, "
            "fetch the files of lib/gate_deploy/gate-requirements.txt elsewhere and name their "
            "folder with --wheels."
        )


def _select(pins: Iterable[Pin], target: Target, folder: Path) -> list[BundleFile]:
    found = []
    files = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    for pin in pins:
        fitting = [file for file in files if _fits(file.name, pin, target)]
        if not fitting:
            raise NotFound(
                f"{folder} holds no wheel of {pin.name} {pin.version} for Python "
                f"{target.python[0]}.{target.python[1]} on {target.machine}."
            )
        pieces = [BundleFile(file.name, file.read_bytes()) for file in fitting]
        good = [p for p in pieces if hashlib.sha256(p.data).hexdigest() in pin.hashes]
        if not good:
            raise Refused(
                f"{fitting[0]} is not the file that is pinned: its checksum is wrong. Nothing "
                "was sent. Remove it and fetch it again."
            )
        found.append(good[0])
    return found


def _fits(name: str, pin: Pin, target: Target) -> bool:
    wheel = _WHEEL.fullmatch(name)
    if wheel is None or wheel["version"] != pin.version:
        return False
    if wheel["name"].lower().replace("_", "-") != pin.name.lower().replace("_", "-"):
        return False
    if wheel["platform"] != "any" and not set(wheel["platform"].split(".")) & {*target.platforms}:
        return False
    own = f"cp{target.python[0]}{target.python[1]}"
    if wheel["abi"] == "abi3":
        minor = re.fullmatch(r"cp3(\d+)", wheel["python"])
        return minor is not None and int(minor[1]) <= target.python[1]
    if wheel["abi"] == "none":
        return "py3" in wheel["python"].split(".")
    return wheel["python"] == wheel["abi"] == own
