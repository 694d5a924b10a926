"""A dense table with buttons in its rows: real table markup, stacked on narrow screens.

Every text may be of any origin: the script that draws it uses `textContent` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import streamlit as st

from ui import components

_component = components.load("data_table")


@dataclass(frozen=True, slots=True)
class Cell:
    """`small` stands below `text`; `tags` (text, kind as of `ui.text.tag`) beside it."""

    text: str
    small: str = ""
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """`actions`: (name, what the button says). The first cell names the row."""

    id: str
    cells: tuple[Cell | str, ...]
    actions: tuple[tuple[str, str], ...] = ()


def show(
    label: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    key: str,
    on_press: Callable[[str, str], None] | None = None,
) -> None:
    """Draw the rows; `on_press` gets the id of a row and the name of the pressed action."""
    offered = {(row.id, name) for row in rows for name, _ in row.actions}

    def pressed() -> None:
        row, action = parse_press(st.session_state[key].get("pressed"))
        if on_press is not None and (row, action) in offered:
            on_press(row, action)

    data = {"label": label, "columns": list(columns), "rows": [_row(row) for row in rows]}
    _component(key=key, data=data, on_pressed_change=pressed)


def parse_press(value: object) -> tuple[str, str]:
    """What the browser says was pressed; two empty texts for anything not understood."""
    if not isinstance(value, Mapping):
        return "", ""
    row, action = value.get("row"), value.get("action")
    return (row, action) if isinstance(row, str) and isinstance(action, str) else ("", "")


class _CellData(TypedDict):
    text: str
    small: str
    tags: list[list[str]]


class _RowData(TypedDict):
    id: str
    cells: list[_CellData]
    actions: list[list[str]]


def _row(row: Row) -> _RowData:
    cells = [Cell(c) if isinstance(c, str) else c for c in row.cells]
    return {
        "id": row.id,
        "cells": [{"text": c.text, "small": c.small, "tags": [*map(list, c.tags)]} for c in cells],
        "actions": [list(action) for action in row.actions],
    }
