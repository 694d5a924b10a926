"""A supervisor of an outer tunnel: a process that carries a UNIX socket to a gate's port.

`open_tunnel` starts one and writes the record beside its socket, as the administrator's side
does; the inner connection cannot tell it from ssh.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fakes.tunnels import write_record

ROOT = Path(__file__).resolve().parents[2]


class Supervisor:
    """One opening of a tunnel. `kill` ends it without a word, as a crash does."""

    def __init__(self, tunnels: Path, cluster: str, port: int, **more: Any) -> None:
        self._tunnels, self._cluster, self._more = tunnels, cluster, more
        folder = tunnels / str(more.get("account", "ada"))
        folder.mkdir(parents=True, exist_ok=True)
        socket = folder / f"{cluster}.sock"
        socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.supervisor", str(socket), str(port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"open\n"
        self.write()

    def write(self, **more: Any) -> None:
        """Write the record again, with changes."""
        write_record(
            self._tunnels, self._cluster, **{**self._more, "pid": self.process.pid, **more}
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=300)


async def _carry(socket: str, port: int) -> None:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        writer.close()

    server = await asyncio.start_unix_server(carry, socket)
    print("open", flush=True)
    await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(_carry(sys.argv[1], int(sys.argv[2])))
