"""Every benchmark runs to its end, in small. Those of the test-bed are in tests/sites."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark_runs import PROJECT, programs, smoke


@pytest.mark.parametrize("name", programs(on_the_bed=False))
def test_a_benchmark_runs_and_prints_its_figures(name: str) -> None:
    smoke(name)


def test_a_benchmark_says_which_test_package_is_missing(tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("raise ModuleNotFoundError(name='psutil')\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "benchmarks.proxy", "--help"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert "psutil" in said
    assert "./test --version" in said
