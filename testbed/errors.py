"""The one error of the test-bed."""

from __future__ import annotations


class BedError(Exception):
    """The message is one or two sentences that say what is wrong and what mends it."""
