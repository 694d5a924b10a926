"""Run the tests that a change can break: `python -m tools.changed [REV] [pytest's arguments]`.

The changed files are those that differ from REV (HEAD where none is given) and those that git does
not know yet. What they can break spreads until nothing is added: to the modules that import them
(grimp's import graph of the packages; tests and scripts are read here), and to the Python files
that name them in quotes, or their folder with a slash at its end, since programs are started, and
documents read, by their names. A conftest reaches the tests of its folder, and what all tests
stand on reaches them all. `--list` prints the files and runs nothing.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import grimp

PROJECT = Path(__file__).resolve().parent.parent
_PACKAGES = ("lib", "ui", "modules", "modulekit", "pages", "benchmarks", "testbed", "tools")
_SCRIPTS = ("app.py", "admin.py")
#: A change of one of these can break any test.
FOR_ALL = re.compile(r"^(pyproject\.toml|requirements[\w-]*\.(txt|in)|tests/conftest\.py)$")
#: The rules of the repository hold for every file.
_RULES = "tests/unit/test_repository.py"
_OF_ALL = "tests/conftest.py"
_SITES = "tests/sites/"
#: A quoted word with a dot or slash in it.
_QUOTED = re.compile(r"""(?<=["'])(?=[\w/-]*[./])[\w./-]+(?=["'])""")


def main(arguments: Sequence[str]) -> NoReturn:
    words = [word for word in arguments if word != "--list"]
    revision = words.pop(0) if words and is_revision(words[0]) else "HEAD"
    changed = changed_files(revision)
    if not changed:
        sys.exit(f"Nothing differs from {revision}.")
    chosen = sorted(can_break(changed))
    print(f"{len(changed)} changed files can break {len(chosen)} test files.", flush=True)
    if "--list" in arguments:
        print("\n".join(chosen))
        sys.exit(0)
    command = [sys.executable, "-P", "-m", "pytest", "-n", "4", *words, *chosen]
    os.execve(command[0], command, {**os.environ, "PYTHONPATH": str(PROJECT)})  # noqa: S606


def is_revision(word: str) -> bool:
    """Whether git knows it as one; an argument of pytest is none."""
    if word.startswith("-"):
        return False
    asked = ("git", "rev-parse", "--quiet", "--verify", f"{word}^{{commit}}")
    return subprocess.run(asked, cwd=PROJECT, capture_output=True).returncode == 0


def changed_files(revision: str) -> set[str]:
    """Paths below the project, also of files that are gone."""
    return {
        *_git("diff", "--name-only", "--no-renames", "-z", revision),
        *_git("ls-files", "--others", "--exclude-standard", "-z"),
    }


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(("git", *arguments), cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git could not say what has changed: {done.stderr.strip()}")
    return [name for name in done.stdout.split("\0") if name]


def can_break(changed: Iterable[str], root: Path = PROJECT) -> set[str]:
    """The test files, below `root`, that these changes can break; those of sites are left out."""
    sources = {
        str(file.relative_to(root)): file.read_text("utf-8")
        for top in (*_PACKAGES, "tests", *_SCRIPTS)
        for file in ([root / top] if top in _SCRIPTS else (root / top).rglob("*.py"))
    }
    tests = {name for name in sources if is_test(name) and not name.startswith(_SITES)}
    reached = set(changed)
    if any(FOR_ALL.match(name) for name in reached):
        return tests
    imports = _imports(sources, root)
    quoted = {name: set(_QUOTED.findall(text)) for name, text in sources.items()}
    basenames = Counter(Path(name).name for name in sources)
    alone = {name for name, times in basenames.items() if times == 1}
    new = reached
    while new:
        modules = {module(name) for name in new} - {""}
        named = _named(new, alone)
        folders = [str(Path(name).parent) for name in new if Path(name).name == "conftest.py"]
        new = {
            name
            for name, text in sources.items()
            if name not in reached
            and name != _OF_ALL  # it names what it marks
            and (
                not modules.isdisjoint(imports[name])
                or not named.isdisjoint(quoted[name])
                or any(is_test(name) and Path(name).is_relative_to(f) for f in folders)
            )
        }
        reached |= new
    return {name for name in tests if name in reached or name == _RULES}


def is_test(name: str) -> bool:
    return name.startswith("tests/") and Path(name).name.startswith("test_")


def module(name: str) -> str:
    """`lib/gate/__init__.py` -> `lib.gate`; "" for what is no module."""
    if not name.endswith(".py"):
        return ""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _named(names: Iterable[str], alone: Collection[str]) -> set[str]:
    """How a Python file can speak of these: in quotes, by path, module, file name or folder.

    Args:
        alone: names of Python files that only one has.
    """
    ways = set()
    for name in names:
        ways |= {name, module(name) or name, f"{Path(name).parent}/"}
        if not module(name) or Path(name).name in alone:
            ways.add(Path(name).name)
        if name.endswith("/__main__.py"):
            ways |= {module(f"{Path(name).parent}.py"), f"{Path(name).parent.parent}/"}
    return ways


def _imports(sources: Mapping[str, str], root: Path) -> dict[str, set[str]]:
    """What each file imports by itself, as modules."""
    there = [name for name in _PACKAGES if (root / name / "__init__.py").exists()]
    graph = grimp.build_graph(*there, cache_dir=None)
    return {
        name: set(graph.find_modules_directly_imported_by(module(name)))
        if module(name) in graph.modules
        else _read_imports(text)
        for name, text in sources.items()
    }


def _read_imports(text: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
