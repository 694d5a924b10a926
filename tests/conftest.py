"""Which tests are left to those of sites, where these follow in the same run (`.ci/run`)."""

import os

import pytest

FOLLOW = "SCENEBRIDGE_SITES_FOLLOW"
#: Files that start real sshd, Slurm or containers for what tests/sites does on whole hosts.
ON_SITES_TOO = frozenset(
    f"contract/{name}.py"
    for name in (
        *("test_gate_apptainer", "test_gate_control", "test_gate_slurm"),
        *("test_tunnel_outer", "test_tunnel_terminal"),
    )
)
LEFT_TO_SITES = pytest.mark.skip(reason="tried on real hosts by the tests of sites, which follow")


def pytest_collection_modifyitems(items):
    if not os.environ.get(FOLLOW):
        return
    for item in items:
        if "/".join(item.path.parts[-2:]) in ON_SITES_TOO:
            item.add_marker(LEFT_TO_SITES)
