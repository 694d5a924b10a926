"""How large a product from outside may be before it is refused.

The largest real product is a Landsat 8 Level-1 scene: about 2 GB unpacked. Limits on
single rasters are in `lib.imagery.raster`.
"""

from __future__ import annotations

MAX_ARCHIVE_BYTES = 8 * 2**30
MAX_MEMBERS = 500
MAX_TEXT_BYTES = 4 * 2**20
MAX_FILES = 500
