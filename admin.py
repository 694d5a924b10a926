#!/usr/bin/env python3
"""Command line for whoever runs a portal: python admin.py --help."""

import os
import sys
from pathlib import Path

_ENVIRONMENT = (Path(__file__).resolve().parent / ".venv").resolve()


def main() -> int:
    """Run one command with the Python that `./run` has set up; the exit code."""
    python = _ENVIRONMENT / "bin" / "python"
    if Path(sys.prefix).resolve() != _ENVIRONMENT.resolve() and python.exists():
        os.execv(python, [str(python), __file__, *sys.argv[1:]])  # noqa: S606 - argv, no shell
    try:
        from lib.cli import run
    except ModuleNotFoundError as exc:
        print(
            f"The package {exc.name} is missing; start ./run once, it installs all.",
            file=sys.stderr,
        )
        return 1
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
