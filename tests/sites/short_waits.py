"""A checkout whose programs wait for another time: what tests of whole sites would wait for.

The hosts of a bed show a checkout. This one is a copy in which the product's own intervals, of
which none can be set, are some times shorter: how often a connection is asked for a sign of
life, and how long something that failed is left alone. Nothing else differs; the proportions
between them stay as they are. One is longer: how long a stream is kept for who has to open a
tunnel meanwhile, on a computer that is busy.
"""

from __future__ import annotations

import compileall
import re
import shutil
from pathlib import Path

from testbed.bed import CHECKOUT
from testbed.project import LEFT_OUT

#: File to constants and what they are in the copy.
INTERVALS: dict[str, dict[str, str]] = {
    "lib/protocol/messages.py": {"WATCH_PING_S": "2.0"},
    "lib/protocol/resumable.py": {"KEEP_S": "900.0"},
    "lib/tunnels/link.py": {"_PROBE_S": "5.0"},
    "lib/tunnels/master.py": {"CONTROL_TIMEOUT_S": "4.0"},
    "lib/tunnels/ssh_options.py": {"ALIVE_INTERVAL_S": "2"},
    "lib/tunnels/outer/admin_ssh.py": {"ALIVE_INTERVAL_S": "2"},
    "lib/reconciler/cluster.py": {"_LONGEST_PAUSE_S": "1.0"},
    "lib/reconciler/submit.py": {"_LONGEST_PAUSE_S": "1.0"},
    "lib/gate/jobs.py": {"_RECALL_EVERY_S": "1.0"},
    "lib/gate/kill_switch.py": {"LOOK_EVERY_S": "0.5"},
}


def impatient_checkout(folder: Path) -> Path:
    """Copy the checkout into a folder that is not there yet, and shorten its intervals."""
    top = [entry for entry in CHECKOUT.iterdir() if _shown(entry)]
    folder.mkdir()
    for entry in top:
        if entry.is_dir():
            shutil.copytree(entry, folder / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, folder / entry.name, follow_symlinks=False)
    for name, constants in INTERVALS.items():
        file = folder / name
        text = file.read_text()
        for constant, value in constants.items():
            text, count = re.subn(rf"(?m)^{constant} = \S+$", f"{constant} = {value}", text)
            assert count == 1, (name, constant)
        file.write_text(text)
    (folder / ".venv").symlink_to((CHECKOUT / ".venv").resolve())
    for name in ("lib", "modules", "modulekit", "pages", "ui"):  # the hosts cannot write there
        compileall.compile_dir(folder / name, quiet=1)
    return folder


def _shown(entry: Path) -> bool:
    """Whether the hosts of a bed would show it (`testbed.project.assemble`)."""
    cache = entry.name.startswith(".") and entry.name.endswith("_cache")
    return entry.name not in LEFT_OUT and not cache
