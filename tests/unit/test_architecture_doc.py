"""The map at the head of docs/architecture.md leads to what it names."""

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENT = PROJECT / "docs" / "architecture.md"
ROW = re.compile(r"^\| ([^|`]+) \| `([\w/.]+\.(?:py|js|toml))` \| `([\w.]+)` \|$", re.MULTILINE)
HEADING = "## You look for …"


def rows():
    """(what somebody looks for, file, symbol) of each line of the map."""
    text = DOCUMENT.read_text("utf-8")
    begin = text.index(HEADING)
    section = text[begin : text.index("\n## ", begin + 1)]
    found = ROW.findall(section)
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(found) == len(lines) - 1, "a row of the map is not: | words | `file` | `symbol` |"
    return found


def symbols(file):
    """Names that a Python file defines at its top, and `Class.name` below classes."""
    for node in ast.parse(file.read_text("utf-8")).body:
        yield from names_of(node)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                yield from (f"{node.name}.{name}" for name in names_of(inner))


def names_of(node):
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_each_row_of_the_map_opens_what_it_names():
    wrong = [
        (words, path, symbol)
        for words, path, symbol in rows()
        if not (PROJECT / path).is_file() or symbol not in set(symbols(PROJECT / path))
    ]
    assert wrong == []


def test_the_map_names_thirty_behaviours_once():
    words = [row[0] for row in rows()]
    assert len(words) >= 30
    assert len(set(words)) == len(words)


def test_the_map_stands_before_everything_else():
    headings = re.findall(r"^## .*$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert headings[0] == HEADING
