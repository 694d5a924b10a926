"""`python -m lib.gate_deploy.renew_pins`: write the checksums of gate-requirements.txt anew.

Edit the versions in that file first. Every wheel for every Python and processor that a gate
may run on is fetched through pip, and its checksum written down.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from pathlib import Path

from lib.gate_deploy import wheels


def main() -> None:
    """Fetch all, then write the file."""
    text = wheels.PINS.read_text("utf-8")
    head = [line for line in text.splitlines() if line.startswith("#")]
    named = re.findall(r"^([A-Za-z0-9_-]+==\S+(?: ; [^\\\n]+?)?) \\$", text, re.MULTILINE)
    found: dict[str, set[str]] = {line: set() for line in named}
    for python in wheels.PYTHONS:
        for machine in wheels.MACHINES:
            target = wheels.Target(python, machine)
            print(target.tag, file=sys.stderr)
            for line in named:
                found[line] |= _hashes(line, target)
    blocks = [
        " \\\n".join([line, *(f"    --hash=sha256:{h}" for h in sorted(hashes))])
        for line, hashes in found.items()
    ]
    wheels.PINS.write_text("\n".join([*head, *blocks]) + "\n", "utf-8")


def _hashes(line: str, target: wheels.Target) -> set[str]:
    """The checksum of the one wheel of that line, where the target needs it."""
    requirement, _, marker = line.partition(" ; ")
    if marker and not wheels.applies(marker, target):
        return set()
    with tempfile.TemporaryDirectory() as folder:
        wheels.fetch([requirement], target, Path(folder, "wheels"), hashes=False)
        return {
            hashlib.sha256(file.read_bytes()).hexdigest()
            for file in Path(folder, "wheels").glob("*.whl")
        }


if __name__ == "__main__":
    main()
