"""How large a product from outside may be before it is refused.

The largest real products are a Landsat 8 Level-1 scene (about 2 GB unpacked, 240 Mpx in
its panchromatic band) and a FORMOSAT-5 panchromatic strip (12,000 x 12,000 px).
"""

from __future__ import annotations

MAX_ARCHIVE_BYTES = 8 * 2**30
MAX_MEMBERS = 500
MAX_TEXT_BYTES = 4 * 2**20
MAX_PIXELS = 400_000_000
MAX_SIDE = 40_000
MAX_BANDS = 8
MAX_FILES = 500
