"""Which tests are left to those of sites, where these follow in the same run (`.ci/run`)."""

import os
import re

import pytest

FOLLOW = "SCENEBRIDGE_SITES_FOLLOW"
#: What starts a real sshd, Slurm or Apptainer for what tests/sites does on whole hosts.
ON_SITES_TOO = re.compile(
    r"contract/test_(gate_(apptainer|control|deploy|slurm)|slurm|tunnel_(outer|terminal))\.py"
    r"|security/test_(container|shared_node)\.py"
    r"|\[(slurm|apptainer)\b"
)
LEFT_TO_SITES = pytest.mark.skip(reason="tried on real hosts by the tests of sites, which follow")


def pytest_collection_modifyitems(items):
    if os.environ.get(FOLLOW):
        for item in items:
            if ON_SITES_TOO.search(item.nodeid):
                item.add_marker(LEFT_TO_SITES)
