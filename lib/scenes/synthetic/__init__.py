"""Synthetic products in the real layouts, with planted objects and the truth about them.

They serve where no real scene is at hand: samples, tests, benchmarks. Each carries a
clear mark (`ORIGIN`, `DATASET_PRODUCER_NAME`), and its scene is called synthetic.
"""

from lib.scenes.synthetic.formosat import FormosatSpec, write_formosat
from lib.scenes.synthetic.landsat import LandsatSpec, write_landsat

__all__ = ["FormosatSpec", "LandsatSpec", "write_formosat", "write_landsat"]
