"""The benchmarks of a whole site run to their end, in small, on the site that stands."""

from __future__ import annotations

import pytest

from testbed.bed import VARIABLE
from tests.benchmark_runs import programs, smoke
from tests.sites.standing import Standing

pytestmark = [pytest.mark.site]
RUNS = [("launch", "--site", "nchc"), *((name,) for name in programs(on_the_bed=True))]


@pytest.mark.parametrize("run", RUNS, ids=" ".join)
def test_a_benchmark_runs_and_prints_its_figures(
    run: tuple[str, ...], empty_site: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(empty_site.bed.state))
    smoke(*run, beside=("--standing", str(empty_site.port)))
    empty_site.nothing_is_left()
