"""MTL files, by what is in them; whole products: test_scenes_landsat.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.errors import InvalidProduct
from lib.scenes import mtl

#: As in a Level-2 file: the product itself first, then what it was made of.
TEXT = """\
GROUP = LANDSAT_METADATA_FILE
  GROUP = PRODUCT_CONTENTS
    PROCESSING_LEVEL = "L2SP"
    SUN_ELEVATION = 41.5
  END_GROUP = PRODUCT_CONTENTS
  GROUP = LEVEL1_PROCESSING_RECORD
    PROCESSING_LEVEL = "L1TP"
  END_GROUP = LEVEL1_PROCESSING_RECORD
END_GROUP = LANDSAT_METADATA_FILE
END
"""


def read(folder: Path, text: str) -> mtl.Mtl:
    path = folder / "X_MTL.txt"
    path.write_text(text)
    return mtl.read(path)


def test_the_product_itself_is_described_first(tmp_path: Path) -> None:
    found = read(tmp_path, TEXT)
    assert found.text("PROCESSING_LEVEL") == "L2SP"
    assert found.find("PROCESSING_LEVEL", group="LEVEL1_PROCESSING_RECORD") == "L1TP"
    assert found.find("PROCESSING_LEVEL", group="OTHER") is None
    assert found.number("SUN_ELEVATION") == 41.5


@pytest.mark.parametrize("lines", range(1, 9))
def test_what_was_cut_off_is_refused(tmp_path: Path, lines: int) -> None:
    with pytest.raises(InvalidProduct, match="has no end; the file may be cut off"):
        read(tmp_path, "".join(TEXT.splitlines(keepends=True)[:lines]))


def test_groups_are_closed_in_their_order(tmp_path: Path) -> None:
    with pytest.raises(InvalidProduct, match="does not close what was opened"):
        read(tmp_path, TEXT.replace("END_GROUP = PRODUCT_CONTENTS", "END_GROUP = OTHER"))


@pytest.mark.parametrize("value", ["nan", "inf", "-1e999", "forty", '"4 1"'])
def test_a_number_is_finite(tmp_path: Path, value: str) -> None:
    found = read(tmp_path, TEXT.replace("41.5", value))
    with pytest.raises(InvalidProduct, match="SUN_ELEVATION is not a number"):
        found.number("SUN_ELEVATION")
