"""The arrays that modules work with, by what they hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Digital numbers of a band, as its file has them.
Numbers = npt.NDArray[np.uint8 | np.uint16 | np.int16]
#: Masks, flag bits, colours.
Bits = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
#: A strength, or a row of them, for each detected pixel.
Strengths = npt.NDArray[np.float32]
#: Calibrations.
Reals = npt.NDArray[np.float64]
#: Rows, columns, labels, counts.
Integers = npt.NDArray[np.int64]
