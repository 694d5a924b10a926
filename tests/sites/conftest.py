"""The test-bed for tests of whole sites; see docs/testbed.md."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from testbed import Bed, install
from testbed.sites import every_site
from tests.chromium import chromium
from tests.sites.faults import Breakable
from tests.sites.short_waits import impatient_checkout
from tests.sites.standing import fetch_wheels, standing
from tests.sites.thief import Labs, Thief
from tests.sites.trying import LISTEN

HERE = Path(__file__).parent
LOCAL = ["127.0.0.1", "::1", "localhost"]
ADDRESSES = [
    address
    for site in every_site()
    for machine in site.machines
    for address in machine.links.values()
]


#: A group of files has a bed of its own, as far as there are workers. Within one they run by
#: name; what changes policies and keys (test_site_officer) stands last in a group that no other
#: follows.
GROUPS = {
    "test_attacks": "attacks",
    "test_other": "attacks",
    "test_site_officer": "attacks",
    "test_faults": "faults",
    "test_signing_in": "faults",
}


def group_of(stem: str) -> str:
    """Of a file, by how its name begins; the rest is one group."""
    return next((group for begin, group in GROUPS.items() if stem.startswith(begin)), "others")


class ByGroup(LoadScopeScheduling):
    """The files of a group go to one worker. (`--dist loadgroup` of pytest-xdist 3.8 writes groups
    where pytest 9.2 does not read them, and so tests of one bed would go to both.)"""

    def _split_scope(self, nodeid):
        return group_of(Path(nodeid.partition("::")[0]).stem)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByGroup(config, log)


def pytest_collection_modifyitems(items):
    """These tests may connect within the bed, and to nothing else than that and loopback."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.site)
            item.add_marker(pytest.mark.allow_hosts([*LOCAL, *ADDRESSES]))


@pytest.fixture(scope="session")
def bed(tmp_path_factory):
    """The bed that the tests of a session share: what a test breaks there it mends."""
    if lacks := install.lacks():
        pytest.skip("; ".join(map(str, lacks)))
    sites = [
        replace(site, options={**site.options, "memory": "enforced"}) if site.kind else site
        for site in every_site()
    ]
    checkout = impatient_checkout(tmp_path_factory.mktemp("checkout") / "copy")
    made = Bed(tmp_path_factory.mktemp("bed"), sites=sites, checkout=checkout)
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="session")
def site(bed, tmp_path_factory):
    """A portal and a Slurm site, set up as docs/admin.md says; what a test breaks it mends."""
    wheels = fetch_wheels(tmp_path_factory.mktemp("gate") / "wheels")
    it = Breakable(bed, wheels)
    with standing(bed, wheels, it):
        yield it


@pytest.fixture(scope="session")
def browser():
    """A browser of a scientist's, on this machine: the relay of the site is its network."""
    with chromium() as running:
        yield running


@pytest.fixture
def open_port(bed):
    """Starts a listener on every address of a host, as an ordinary user; gives its port."""
    started = []

    def start(name, user) -> int:
        program = bed.host(name).popen(
            ["/usr/bin/python3", "-c", LISTEN],
            user,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(program)
        return int(program.stdout.readline())

    yield start
    for program in started:
        program.kill()
        program.communicate(timeout=300)


@pytest.fixture(scope="session")
def thief(site):
    """Somebody with everything of the portal's account in hand."""
    return Thief(site)


@pytest.fixture(scope="session")
def labs(site, tmp_path_factory):
    """Where `lab` is kept; `close()` ends it."""
    with Labs(site, tmp_path_factory.mktemp("lab")) as held:
        yield held


@pytest.fixture(scope="module")
def lab(labs, thief):
    """An honest user's notebook, as the thief reaches it: one for all files of a group."""
    return labs.of(thief)


@pytest.fixture
def empty_site(site, labs):
    """The site without the notebook of other tests."""
    labs.close()
    return site
