"""What the quality band says of an object. Flags are attached, nothing is masked.

Bits of QA_PIXEL: Landsat Collection 2 Level-1 data format control book (LSDS-1822).
"""

from __future__ import annotations

from modulekit.raster import SceneReader

QA_PIXEL_FLAGS = {
    0: "fill",
    1: "dilated-cloud",
    2: "cirrus",
    3: "cloud",
    4: "cloud-shadow",
    5: "snow",
    7: "water",
}


def flags_of(scene: SceneReader, box: tuple[int, int, int, int]) -> list[str]:
    """Flags set on any pixel of `box` (row0, column0, row1, column1); [] without QA_PIXEL."""
    if "qa_pixel" not in scene.item.bands:
        return []
    row0, column0, row1, column1 = box
    bits = scene.window("qa_pixel", row0, column0, row1 - row0, column1 - column0)
    return [name for bit, name in QA_PIXEL_FLAGS.items() if (bits >> bit & 1).any()]
