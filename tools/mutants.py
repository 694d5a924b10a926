"""Mutation testing from a list: plant one fault at a time and see whether a test fails.

    python -m tools.mutants [--all] [--only TEXT] [--workers N]

`tests/mutants.toml` has one `[[mutant]]` per fault: the `file`, the text `old` that stands there
exactly once, what stands in its place (`new`), what that would do (`effect`), and the `tests`
that should notice. Each is planted in a copy of the tracked files; nothing here is changed. A
mutant is killed when those tests fail; with `--all` one that survives them meets the tests of
`./test fast` too. Exit code 1 where one survives, 2 where the list does not fit the code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

PROJECT = Path(__file__).resolve().parent.parent
LIST = PROJECT / "tests" / "mutants.toml"
#: What `./test fast` leaves out.
FAST = "not browser and not portal and not slow and not site"
#: A mutant that makes a test wait for ever counts as noticed.
TIMEOUT_S = 600
#: pytest's exit codes: some tests failed; all passed.
_FAILED, _PASSED = 1, 0


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault.

    Args:
        file: path in the project.
        old, new: the text that is replaced, once in the file, and its replacement.
        effect: what the fault would do to somebody.
        tests: files or node ids of pytest.
    """

    file: str
    old: str
    new: str
    effect: str
    tests: tuple[str, ...]


def read_list(path: Path = LIST) -> tuple[Mutant, ...]:
    """The list. Raises KeyError or TypeError where an entry lacks a part."""
    entries = tomllib.loads(path.read_text("utf-8"))["mutant"]
    return tuple(Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries)


def misfit(mutant: Mutant, project: Path = PROJECT) -> str:
    """Why this mutant cannot be planted, or ""."""
    file = project / mutant.file
    if not file.is_file():
        return f"{mutant.file} is not there"
    found = file.read_text("utf-8").count(mutant.old)
    if found != 1:
        return f"{mutant.file} has {found} times: {mutant.old.strip()}"
    missing = [t for t in mutant.tests if not (project / t.partition("::")[0]).exists()]
    return f"{mutant.file}: no test {missing[0]}" if missing else ""


@contextmanager
def planted(mutant: Mutant, copy: Path) -> Iterator[None]:
    """The fault stands in `copy` until the end of the block."""
    file = copy / mutant.file
    before = file.read_text("utf-8")
    file.write_text(before.replace(mutant.old, mutant.new), "utf-8")
    try:
        yield
    finally:
        file.write_text(before, "utf-8")


def killed(mutant: Mutant, copy: Path, *, everything: bool) -> bool:
    """Whether a test fails on the fault."""
    with planted(mutant, copy):
        return _fails(copy, *mutant.tests) or (everything and _fails(copy, "-m", FAST))


def _fails(copy: Path, *arguments: str) -> bool:
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *arguments],
            cwd=copy,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in (_PASSED, _FAILED):
        raise RuntimeError(f"pytest {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr}")
    return done.returncode == _FAILED


def copy_project(into: Path) -> Path:
    """The tracked files as they are now, with the environment and the built front end."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, into / name)
    for name in (".venv", "assets", "node_modules"):
        (into / name).symlink_to(PROJECT / name)
    return into


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help="survivors meet ./test fast too")
    parser.add_argument("--only", default="", help="mutants with this text in file or effect")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    mutants = [m for m in read_list() if options.only in f"{m.file} {m.effect}"]
    if wrong := [said for m in mutants if (said := misfit(m))]:
        print(*wrong, sep="\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="sb-mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.workers):
            copies.put(copy_project(Path(folder) / str(number)))

        def tried(mutant: Mutant) -> bool:
            copy = copies.get()
            try:
                return killed(mutant, copy, everything=options.all)
            finally:
                copies.put(copy)

        survivors = []
        with ThreadPoolExecutor(options.workers) as pool:
            for mutant, dead in zip(mutants, pool.map(tried, mutants), strict=True):
                print(f"{'killed  ' if dead else 'SURVIVED'} {mutant.file}: {mutant.effect}")
                survivors += [] if dead else [mutant]
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
