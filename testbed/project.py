"""The checkout as the hosts see it: /opt/scenebridge, read-only, with a Python that runs.

A virtual environment is a nest of absolute links: its python is a link to the Python that
made it, which may lie in somebody's home folder; its programs begin with the path it was
made at; and `.venv` may be a link itself. Here all three come to lie below one folder that
every user can enter, so that one bind shows the project to a container too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from testbed import kernel
from testbed.places import PROJECT

PYTHON = PROJECT / ".python"
VENV = PROJECT / ".venv"
#: What of a checkout no host has any business with.
LEFT_OUT = {".git", ".venv", ".venv.lock", "var", "node_modules"}


def assemble(checkout: Path, target: Path, parts: Path) -> None:
    """Build the folder that hosts bind to `PROJECT`; runs in the bed's mount namespace.

    Folders are bound, so what is edited in them is seen at once.

    Args:
        parts: a folder on the same tmpfs for what has to be written anew.
    """
    for folder in (target, parts):
        folder.mkdir()
    kernel.mount("project", target, "tmpfs", options="mode=755")
    for entry in sorted(checkout.iterdir()):
        cache = entry.name.startswith(".") and entry.name.endswith("_cache")
        if entry.name not in LEFT_OUT and not cache:
            show(entry, target / entry.name)
    venv = checkout / ".venv"
    if venv.exists():
        show_environment(venv.resolve(), venv, target, parts)
    kernel.mount("", target, flags=kernel.REMOUNT | kernel.BIND | kernel.RDONLY)


def show(source: Path, place: Path) -> None:
    """One entry of a folder, read-only; a link stays a link."""
    if source.is_symlink():
        place.symlink_to(source.readlink())
    elif source.is_dir():
        place.mkdir()
        kernel.bind(source, place, read_only=True)
    elif source.is_file():
        place.touch()
        kernel.bind(source, place, read_only=True)


def show_environment(venv: Path, named: Path, target: Path, parts: Path) -> None:
    """The virtual environment and, where that is not the system's, its Python."""
    place = target / ".venv"
    place.mkdir()
    settings = (venv / "pyvenv.cfg").read_text()
    python = (venv / "bin/python").resolve()
    private = not python.is_relative_to("/usr")
    if private:
        show_python(python, target / ".python")
        lines = settings.splitlines()
        lines = [f"home = {PYTHON}/bin" if line.startswith("home") else line for line in lines]
        settings = "\n".join(lines) + "\n"
    for entry in sorted(venv.iterdir()):
        if entry.name == "pyvenv.cfg":
            (place / entry.name).write_text(settings)
        elif entry.name != "bin":
            show(entry, place / entry.name)
    changed = parts / "bin"
    changed.mkdir()
    for entry in (venv / "bin").iterdir():
        if private and entry.is_symlink() and entry.resolve() == python:
            if entry.readlink().is_absolute():
                (changed / entry.name).symlink_to(PYTHON / "bin" / python.name)
        elif entry.is_file() and entry.stat().st_size < 50_000:
            rewrite(entry, changed / entry.name, {venv, named})
    (place / "bin").mkdir()
    layers = f"lowerdir={changed}:{venv}/bin"
    kernel.mount("programs", place / "bin", "overlay", kernel.RDONLY, layers)


def rewrite(script: Path, place: Path, venvs: set[Path]) -> None:
    """A program's script with the first line that fits `PROJECT`."""
    content = script.read_bytes()
    first, newline, rest = content.partition(b"\n")
    for venv in venvs:
        start = f"#!{venv}/bin/".encode()
        if first.startswith(start):
            changed = f"#!{VENV}/bin/".encode() + first.removeprefix(start)
            place.write_bytes(changed + newline + rest)
            shutil.copymode(script, place)


def show_python(python: Path, place: Path) -> None:
    """A Python from elsewhere, with its program changed to find its library from there."""
    place.mkdir()
    (place / "bin").mkdir()
    for entry in sorted(python.parent.parent.iterdir()):
        if entry.name in {"lib", "include"}:
            show(entry, place / entry.name)
    program = place / "bin" / python.name
    shutil.copy2(python, program)
    if list((python.parent.parent / "lib").glob("libpython*.so*")):
        subprocess.run(
            ["patchelf", "--force-rpath", "--set-rpath", "$ORIGIN/../lib", program],
            check=True,
            timeout=300,
            env=os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/bin"},
        )
    for name in ("python3", "python"):
        (place / "bin" / name).symlink_to(python.name)
