"""`doctor`: what a portal needs, checked one by one (`lib.doctor`)."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from lib.cli.output import Commands, Output, command
from lib.cli.store_access import data_of, has_portal, portal_of
from lib.doctor import examine

if TYPE_CHECKING:
    import argparse


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    about = "Check this computer, the data folder, each cluster and, with providers, the network."
    command(commands, "doctor", _doctor, common, about)


def _doctor(options: argparse.Namespace) -> Output:
    logging.getLogger("lib").addHandler(logging.NullHandler())  # the checks say it themselves
    data = data_of(options)
    if has_portal(data):
        portal_of(options)  # says which one, where another runs
    checks = list(examine(data))
    lines = [f"{'ok  ' if c.ok else 'BAD '} {c.name}: {c.detail}" for c in checks]
    return Output(
        [asdict(c) for c in checks], "\n".join(lines), failed=not all(c.ok for c in checks)
    )
