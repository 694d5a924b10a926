"""`python -m tools.lock [--upgrade-package NAME]...`: write the lock files of all packages anew.

Each `NAME.in` says what is wanted; `NAME.txt` beside it is its lock file: the exact version of
everything below that, for Python 3.11 and newer on any platform, with the SHA-256 of each file
and without an address. What is locked stays as it is where it still fits. Arguments go to
`uv pip compile`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.bootstrap import (
    DEV_LOCK,
    NODE_LOCK,
    RUN_LOCK,
    UV_LOCK,
    Project,
    pip_settings,
    uv_environment,
)

#: In this order: the later ones take their versions from the first.
LOCKS = (RUN_LOCK, DEV_LOCK, "modules/requirements.txt", NODE_LOCK, UV_LOCK)
HEAD = """\
# Made by `python -m tools.lock` from {source}; changes here are lost.
"""


def main(arguments: list[str]) -> int:
    """Write every lock file; the exit code."""
    project = Project(Path(__file__).resolve().parent.parent)
    for name in LOCKS:
        write(project, name, arguments)
    return 0


def write(project: Project, name: str, arguments: list[str]) -> None:
    """Write one lock file; what it locks already is kept where it still fits."""
    lock = project.root / name
    source = lock.with_suffix(".in")
    command = [str(project.uv), "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
    command += ["--python-version=3.11", "--no-header", "--no-annotate", "--no-config"]
    command += ["--no-emit-index-url", "--no-emit-find-links"]
    command += [*arguments, f"--output-file={lock}", str(source)]
    environment = uv_environment(pip_settings(project))
    for more in ("UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        environment.pop(more, None)  # may hold some files of a version only: all are locked
    subprocess.run(command, check=True, env=environment, cwd=project.root)
    text = lock.read_text("utf-8")
    head = HEAD.format(source=source.name)
    if name == DEV_LOCK:
        # It stands on the other one, and says nothing twice.
        known = set(entries((project.root / RUN_LOCK).read_text("utf-8")))
        text = "".join(entry for entry in entries(text) if entry not in known)
        head += f"-r {RUN_LOCK}\n"
    lock.write_text(head + text, "utf-8")


def entries(text: str) -> list[str]:
    """The entries of a lock file, each a requirement with its hashes."""
    found: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.startswith(" "):
            found[-1] += line
        elif not line.startswith(("#", "-")):
            found.append(line)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
