"""The kill switch: a file whose presence ends all that this gate started.

`STOP` in the gate's folder is the account's own; `stop_files` of the policy lie where the
site's operators can make them. While one is there, no gate serves the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from lib.errors import Refused

NAME = "STOP"
LOOK_EVERY_S = 2.0


def active_stop_file(state_dir: Path, stop_files: tuple[Path, ...]) -> Path | None:
    """The first of these files that is there, a dangling link included."""
    return next((f for f in (state_dir / NAME, *stop_files) if os.path.lexists(f)), None)


def refusal(file: Path) -> Refused:
    """Why no gate is started."""
    return Refused(
        f"The kill switch is on: {file} is there. No gate starts and no job of it runs until "
        "whoever made that file has removed it."
    )
