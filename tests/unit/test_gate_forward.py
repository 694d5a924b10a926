"""A forward through the gate carries every byte, whoever speaks first and closes first."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.gate import byte_source, download, forward, gate_process


@pytest.mark.slow
def test_a_server_that_speaks_first_and_closes_loses_nothing(tmp_path: Path) -> None:
    for name in ("key", "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    with (
        byte_source(8) as source,
        gate_process(tmp_path, source) as gate,
        forward(tmp_path, gate) as path,
    ):
        for _ in range(5):
            assert download(path, 8) > 0  # raises when bytes are missing
