"""docs/security.md names a test for what it claims; each of them must be there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
_NAMED = re.compile(r"`([\w/]*test_\w+\.py)?(?:::(test_\w+))?[^`]*`")


def test_every_test_that_the_security_page_names_is_there() -> None:
    text = (PROJECT / "docs" / "security.md").read_text("utf-8")
    last, found = "", 0
    for match in _NAMED.finditer(text):
        name, function = match.groups()
        if not name and not function:
            continue
        last = name or last
        [file] = [p for p in (PROJECT / "tests").rglob("*.py") if str(p).endswith(f"/{last}")]
        found += 1
        if function:
            tree = ast.parse(file.read_text("utf-8"))
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
            functions = {node.name for node in tree.body if isinstance(node, kinds)}
            assert function in functions, f"{last} has no {function}"
    assert found > 20
