"""Benchmarks as tests run them: `--smoke`, as programs of their own, and what came out."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.command import LACKING

PROJECT = Path(__file__).resolve().parent.parent
DOCUMENT = PROJECT / "docs" / "benchmarks.md"
_ON_THE_BED = re.compile(r"^from testbed", re.MULTILINE)


def programs(*, on_the_bed: bool) -> list[str]:
    """Those in the folder that always need the test-bed, or the others."""
    folder = PROJECT / "benchmarks/"
    texts = {file.stem: file.read_text("utf-8") for file in folder.glob("*.py")}
    started = {name: text for name, text in texts.items() if "__main__" in text}
    started |= {file.parent.name: file.read_text("utf-8") for file in folder.glob("*/__main__.py")}
    return sorted(n for n, text in started.items() if bool(_ON_THE_BED.search(text)) == on_the_bed)


def smoke(name: str, *arguments: str, beside: Sequence[str] = ()) -> None:
    """Run a benchmark in small: it must print figures, among them those of docs/benchmarks.md.

    Skips where this computer lacks what it needs.

    Args:
        arguments: as in the document.
        beside: further ones.
    """
    command = [sys.executable, "-P", "-m", f"benchmarks.{name}", "--smoke", *arguments, *beside]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=580,
    )
    if done.returncode == LACKING:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("A smoke run: no verdict.")
    rows = _rows(done.stdout)
    assert rows
    assert _documented(name, *arguments) <= rows.keys()
    for figures in rows.values():
        assert figures
        assert all(math.isfinite(figure) and figure >= 0 for figure in map(_number, figures))


def _documented(*words: str) -> set[str]:
    """The rows of the first table below the heading with that command."""
    start = rf"^## [^`\n]*`python -m benchmarks\.{' '.join(words)}(?! --site)[^\n]*\n"
    section = re.search(rf"{start}(.*?)(?=^## |\Z)", DOCUMENT.read_text("utf-8"), re.M | re.S)
    assert section, f"{DOCUMENT.name} has no section on {' '.join(words)}"
    first, _, _ = section[1].partition("|\n\n")
    return set(_rows(f"{first}|\n"))


def _rows(text: str) -> dict[str, list[str]]:
    """Of the Markdown tables in a text: the names of the rows and what stands beside them."""
    lines = re.findall(r"^\| *(.*?) *\|$", text, re.M)
    cells = [[c.strip(" *") for c in line.split("|")] for line in lines]
    heads = re.findall(r"^\| *(.*?) *\|\n\|-", text, re.M)
    names = {head.partition("|")[0].strip() for head in heads}
    return {row[0]: row[1:] for row in cells if row[0] not in names and set(row[0]) - set("-")}


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))
