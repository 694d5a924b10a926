"""Mutation testing from a list: plant one fault at a time and see whether a test fails.

    python -m tools.mutants [--all] [--only TEXT] [--workers N]

`tests/mutants.toml` has one `[[mutant]]` per fault: the `file`, the text `old` that stands there
exactly once, what stands in its place (`new`), what that would do (`effect`), and the `tests`
that should notice. Each is planted in a copy of the tracked files; nothing here is changed. A
mutant is killed when those tests fail, which pass without it: by those of them that `./test fast`
runs, else by the others. With `--all` one that survives them meets all of `./test fast` too. Exit
code 1 where one survives, 2 where the list does not fit the code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue

PROJECT = Path(__file__).resolve().parent.parent
LIST = PROJECT / "tests" / "mutants.toml"
#: What `./test fast` leaves out.
FAST = "not browser and not portal and not slow and not site"
#: A mutant that makes a test wait for ever counts as noticed.
TIMEOUT_S = 600
#: pytest's exit codes: all passed; some tests failed; none was selected.
_PASSED, _FAILED, _NONE = 0, 1, 5


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


class Killer(StrEnum):
    """Which tests fail on a fault."""

    FAST = "fast"
    SLOW = "slow"
    NONE = "SURVIVED"


class Copy:
    """A copy of the project, in which one mutant at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: set[tuple[str, ...]] = set()

    def try_out(self, mutant: Mutant, *, everything: bool) -> Killer:
        """Raises RuntimeError where its tests fail without it, or cannot run."""
        try:
            if mutant.tests not in self._sound:
                if self._fail(*mutant.tests):
                    raise RuntimeError("its tests fail without it")
                self._sound.add(mutant.tests)
            with planted(mutant, self.folder):
                if self._fail(*mutant.tests, "-m", FAST):
                    return Killer.FAST
                if self._fail(*mutant.tests, "-m", f"not ({FAST})"):
                    return Killer.SLOW
                return Killer.FAST if everything and self._fail("-m", FAST) else Killer.NONE
        except RuntimeError as exc:
            raise RuntimeError(f"{mutant.file}: {mutant.effect}: {exc}") from exc

    def _fail(self, *arguments: str) -> bool:
        command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        try:
            done = subprocess.run(
                [*command, *arguments],
                cwd=self.folder,
                env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return True
        if done.returncode not in (_PASSED, _FAILED, _NONE):
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
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(options.workers):
            copies.put(Copy(copy_project(Path(folder) / str(number))))

        def tried(mutant: Mutant) -> Killer:
            copy = copies.get()
            try:
                return copy.try_out(mutant, everything=options.all)
            finally:
                copies.put(copy)

        killers = []
        with ThreadPoolExecutor(options.workers) as pool:
            for mutant, killer in zip(mutants, pool.map(tried, mutants), strict=True):
                print(f"{killer:8} {mutant.file}: {mutant.effect}", flush=True)
                killers.append(killer)
    counts = Counter(killers)
    dead = len(mutants) - counts[Killer.NONE]
    print(f"{dead} of {len(mutants)} killed, {counts[Killer.FAST]} of them by ./test fast")
    return 1 if counts[Killer.NONE] else 0


if __name__ == "__main__":
    sys.exit(main())
