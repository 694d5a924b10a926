"""A real terminal for programs that ask a person something, with the person's part."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from testbed.errors import BedError

#: ioctls that Python 3.11 does not name. The second, of Linux 4.13, opens the other end of a
#: terminal without its path.
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
#: Lines and columns; wide, so that long lines come back in one piece.
SIZE = (50, 250)


class Terminal:
    """A program on a terminal; a context manager that ends it.

    Attributes:
        seen: all that the program has written so far, and what the terminal echoed.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], ptmx: Path, owner: int) -> None:
        """
        Args:
            ptmx: of the devpts that the terminal shall be in.
            owner: uid of who sits at it.
        """
        self._master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(self._master, TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(self._master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
        try:
            os.fchown(slave, owner, -1)
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
            # util-linux's setsid makes standard input the controlling terminal.
            self.program = subprocess.Popen(
                ["/usr/bin/setsid", "--ctty", *argv],
                env=dict(env),
                stdin=slave,
                stdout=slave,
                stderr=slave,
            )
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(slave)
        self.seen = ""
        self._taken = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, line: str) -> None:
        """Type a line and press Enter."""
        self.type(line + "\r")

    def type(self, keys: str) -> None:
        """Type without Enter; "\\x03" is Ctrl-C, "\\x04" is Ctrl-D."""
        os.write(self._master, keys.encode())

    def read_until(self, pattern: str, timeout: float = 300) -> re.Match[str]:
        """Wait until a regular expression fits what came after the last match.

        Raises:
            BedError: it did not within `timeout` seconds, or the program ended before.
        """
        end = time.monotonic() + timeout
        while not (found := re.search(pattern, self.seen[self._taken :])):
            left = end - time.monotonic()
            if left <= 0 or not self._read(left):
                why = f"within {timeout} s" if left <= 0 else "before the program ended"
                raise BedError(f"{pattern!r} did not appear {why}; there is:\n{self.seen}")
        self._taken += found.end()
        return found

    def wait(self, timeout: float = 300) -> int:
        """Read until the program ends; gives its exit code."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0 and self._read(left):
            pass
        return self.program.wait(max(0.1, end - time.monotonic()))

    def close(self) -> None:
        """Hang up, as closing a window does; kill what does not go."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        with suppress(subprocess.TimeoutExpired):
            self.program.wait(2)
        # The process that entered the host may be gone before what it started there.
        with suppress(ProcessLookupError):
            os.killpg(self.program.pid, signal.SIGKILL)
        self.program.wait(300)

    def _read(self, timeout: float) -> bool:
        """Take in what comes within `timeout`; False when nothing can come any more."""
        if not select.select([self._master], [], [], timeout)[0]:
            return True
        try:
            chunk = os.read(self._master, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self.seen += chunk.decode(errors="replace")
        return bool(chunk)
