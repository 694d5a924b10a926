"""Every command of admin.py that the documentation names is there, with its options."""

from __future__ import annotations

import argparse
import functools
import re
import shlex
from pathlib import Path

import pytest

from lib import cli

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
#: `admin.py X`, and `sb X` where docs/operate.md has defined it.
_CALL = re.compile(r"(?:\badmin\.py|(?<![\w./-])sb) ([a-z][^`\n|;)]*)")
_LINES_OF_SH = re.compile(r"```(?:sh)?\n(.*?)```", re.S)


def calls(text: str) -> list[list[str]]:
    """The words of each call in code; without comments and what a shell does afterwards."""
    code = [*re.findall(r"(?<!`)`([^`]+)`(?!`)", text), *_LINES_OF_SH.findall(text)]
    found = []
    for part in code:
        for call in _CALL.findall(part.replace("\\\n", " ").replace('"$@"', "")):
            words = shlex.split(call.split(" > ")[0].split(" && ")[0], comments=True)
            found.append(words)
    return found


@functools.cache
def admin() -> argparse.ArgumentParser:
    return cli._parser()


def fault(words: list[str]) -> str:
    """What is wrong with a call; empty where nothing is."""
    parser = admin()
    left = list(words)
    while True:
        below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not below:
            break
        if not left:
            return ""  # a group of commands is named
        name = left.pop(0)
        if name not in below[0].choices:
            return f"{name} is no command"
        parser = below[0].choices[name]
    options = [word.split("=")[0] for word in left if word.startswith("-") and word != "-"]
    unknown = [option for option in options if option not in parser._option_string_actions]
    return f"{unknown} are no options" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_is_there(page: Path) -> None:
    for words in calls(page.read_text("utf-8")):
        assert fault(words) == "", f"{page.name}: admin.py {' '.join(words)}"


def test_a_command_is_loaded_without_the_others() -> None:
    """Each command is found in the part that is loaded for it, and no part has another."""
    for part in cli._ALL:
        (below,) = cli._parser([part])._subparsers._group_actions  # type: ignore[union-attr]
        assert sorted(below.choices) == sorted(n for n, p in cli._PARTS.items() if p == part)
    assert cli._needed(["token", "--json"]) == ["people"]
    assert cli._needed(["tokn"]) == cli._needed([]) == cli._ALL


def test_what_is_wrong_would_be_found() -> None:
    text = "`admin.py sessions kill X`\n```sh\nsb users list --colour  # hi\nsb audit x > y\n```"
    assert [fault(words) for words in calls(text)] == [
        "kill is no command", "['--colour'] are no options", "",
    ]  # fmt: skip


def test_the_page_for_operators_names_every_command_for_people() -> None:
    named = {" ".join(words) for words in calls((PROJECT / "docs" / "operate.md").read_text())}
    for command in (
        "users list", "users sign-out", "users block", "users unblock", "audit", "doctor", "link",
        "backup", "announce add", "sessions stop", "tokens withdraw",
    ):  # fmt: skip
        assert any(call.startswith(command) for call in named), command


def test_every_file_of_deploy_that_is_named_is_there() -> None:
    text = (PROJECT / "docs" / "operate.md").read_text()
    for name in (PROJECT / "deploy").iterdir():
        assert name.name in text, f"docs/operate.md does not say what {name.name} is for"
