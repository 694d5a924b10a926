"""A module's events, one JSON object per line (docs/architecture.md): their bounds.

Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 16 * 1024
MAX_EVENTS = 200_000
