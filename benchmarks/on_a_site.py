"""The site of the test-bed that a benchmark measures: one of its own, or one that stands.

As root on the test-bed (docs/testbed.md). The tests of sites have a bed with a portal already; a
smoke run of theirs is told where (`--standing`), and leaves it as it was.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.command import lacking
from testbed import Bed, install
from testbed.sites import Site
from tests.running import wait_for
from tests.sites.standing import CLUSTER, Standing, fetch_wheels, standing


@contextmanager
def site(
    port: int | None,
    kind: type[Standing] = Standing,
    sites: list[Site] | None = None,
) -> Iterator[tuple[Standing, float | None]]:
    """The site, with a portal that reaches its gate.

    Args:
        port: of the portal, where one stands.
        kind: by whose policy the site is set up.
        sites: what stands in a bed of its own.
    Yields:
        the site, and how many seconds its set-up took: every command of docs/admin.md, from an
        empty portal host and an empty account on the cluster, typed by a program.
    """
    if lacks := install.lacks():
        lacking("; ".join(map(str, lacks)))
    if port is not None:
        yield kind(Bed(), Path(), port), None
        return
    with tempfile.TemporaryDirectory(prefix="sb-site-") as folder:
        bed = Bed(Path(folder) / "bed", sites=sites)
        bed.up()
        try:
            wheels = fetch_wheels(Path(folder) / "wheels")
            began = time.monotonic()
            with standing(bed, wheels, kind(bed, wheels)) as it:
                yield it, time.monotonic() - began
        finally:
            bed.down()


@contextmanager
def policy(it: Standing, text: str, memory_mb: int) -> Iterator[None]:
    """Another policy for a while, on a site that stands; by its preset the portal is seen to know.

    Args:
        memory_mb: of the first preset.
    """
    with it.api() as api:
        (before,) = (c for c in api.get("/api/clusters").json() if c["id"] == CLUSTER)
    as_it_was = (it.gate_home / "policy.toml").read_text()
    _set(it, text, memory_mb)
    try:
        yield
    finally:
        _set(it, as_it_was, before["presets"][0]["memory_mb"])


def _set(it: Standing, text: str, memory_mb: int) -> None:
    """Ada edits it, as the only way there is."""
    file = "/home/ada/benchmark.toml"
    it.portal.path(file).write_text(text)
    with it.ada() as terminal:
        said = it.types(terminal, "gate", "policy", CLUSTER, "--set", file)
    assert "[code 0]" in said, said
    with it.api() as api:

        def known() -> bool:
            found = [c for c in api.get("/api/clusters").json() if c["id"] == CLUSTER]
            return any(p["memory_mb"] == memory_mb for c in found for p in c["presets"][:1])

        wait_for("the new policy", known, timeout_s=120)
