"""The guide for module authors: its example works, its commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from modulekit.cli import _parser
from modulekit.detector import Channel, Description, Found
from modulekit.manifest import Manifest, Need
from modulekit.run import run
from tests.fixtures.module_scenes import savanna, write_catalog, write_scene

PROJECT = Path(__file__).resolve().parents[2]
GUIDE = (PROJECT / "docs" / "modules.md").read_text("utf-8")


def example() -> Any:
    """The detector of the guide."""
    (code,) = [b for b in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "class " in b]
    names: dict[str, Any] = {"Channel": Channel, "Description": Description, "Found": Found}
    exec(code, names)
    return names["Bright"]()


def test_the_example_of_the_guide_works(tmp_path):
    bands = savanna(100, 100)
    bands["red"][20:23, 30:34] = 45_000
    write_scene(tmp_path / "in", "one", bands)
    write_catalog(tmp_path / "in", ("one",))
    need = Need("landsat-8", ("red", "green", "blue"))
    manifest = Manifest("bright", "1.0.0", "Bright", {"bright": "Bright"}, (need,), "", {})
    said: list[str] = []
    code = run(manifest, example(), {"above": 0.5}, tmp_path / "in", tmp_path / "out", said.append)
    assert (code, said) == (0, ["one: 1 objects"])
    (line,) = [
        json.loads(text)
        for text in (tmp_path / "out" / "status.jsonl").read_text().splitlines()
        if '"object"' in text
    ]
    assert line["pixels"] == 12
    assert line["score"] == np.float32(0.8)


def test_the_commands_of_the_guide_exist():
    parser = _parser("modules.active_fire")
    for line in re.findall(r"python -m modules\.active_fire (.+)", GUIDE):
        words = re.sub(r"#.*|\[|\]", "", line).split()
        assert parser.parse_args(words).command == words[0]
