"""Become another program that dies with its starter and writes no huge file.

`python -I -S confine.py PARENT_PID MAX_FILE_BYTES COMMAND...`: a script by itself, so that
nothing has to run between fork and exec in the session script, which has threads.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set both limits, then exec."""
    parent, max_file_bytes, *argv = sys.argv[1:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != int(parent):  # it died before we asked
            sys.exit(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_file_bytes), int(max_file_bytes)))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write that is too long then fails plainly
    os.execvpe(argv[0], argv, os.environ)  # noqa: S606


if __name__ == "__main__":
    main()
