"""Exec wrapper with limits: dies with its starter (PDEATHSIG) and writes no huge file.

`python -I -S exec_limits.py PARENT_PID MAX_FILE_BYTES exec|watch COMMAND...`: a script by
itself, so that nothing has to run between fork and exec in the session script, which has
threads. `watch` stays beside the command: for programs that lose the kernel's notice of
their parent's death, as those that enter a user namespace do.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_GRACE_S = 10


def main() -> None:
    """Set both limits, then exec, or fork and wait."""
    parent, max_file_bytes, how, *argv = sys.argv[1:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != int(parent):  # it died before we asked
            sys.exit(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_file_bytes), int(max_file_bytes)))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write that is too long then fails plainly
    if how == "watch":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until we can pass it on
        if child := os.fork():
            _watch(child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.execvpe(argv[0], argv, os.environ)  # noqa: S606


def _watch(child: int) -> None:
    """Pass TERM on, and after a grace KILL to the whole group. Exits as the child does."""

    def pass_on(*_: object) -> None:
        signal.alarm(_GRACE_S)
        os.kill(child, signal.SIGTERM)  # not yet waited for, so the pid is still its own

    signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGKILL))
    signal.signal(signal.SIGTERM, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # its pid is free from here on
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(128 - code if code < 0 else code)


if __name__ == "__main__":
    main()
