"""Benchmarks, one program each: `python -m benchmarks.NAME` (docs/benchmarks.md).

Most of them start a portal, a gate or a browser by what tests start them with, and so need the
test packages. Where one is missing, the program says so in one line.
"""

from __future__ import annotations

import sys
from types import TracebackType


def _say_what_is_missing(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if isinstance(error, ModuleNotFoundError):
        print(
            f"This benchmark needs the Python package {error.name}: `./test --version` installs "
            "the test packages into .venv.",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # as long as Python looks for the program: one of ours is started
    sys.excepthook = _say_what_is_missing
