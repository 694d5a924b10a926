"""Parts of a gate's policy as the portal's side writes one: the first, and its own gate's."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING

from lib.config.settings import PROJECT
from lib.model import JsonObject, JsonValue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.model import Module


def module_entry(module: Module) -> dict[str, JsonValue]:
    """The keys of `[[modules]]` that a module's own description decides."""
    folder = module.id.replace("-", "_")
    described = tomllib.loads((PROJECT / "modules" / folder / "module.toml").read_text("utf-8"))
    entry: dict[str, JsonValue] = {
        "id": module.id,
        "version": module.version,
        "entry": f"modules.{folder}",
    }
    if "notebook" in described:
        entry["notebook"] = f"modules/{folder}/{described['notebook']}"
    return entry


def toml_table(name: str, values: JsonObject) -> Iterator[str]:
    """One table of TOML. A JSON string or number is also one of TOML."""
    yield ""
    yield f"[{name}]"
    for key, value in values.items():
        yield f"{key} = {json.dumps(value)}"
