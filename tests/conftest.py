"""What holds for all tests: where they look for things, what they are marked with, and the
browser that they share."""

import functools
import gc
import inspect
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import hypothesis
import psutil
import pytest

from tests.isolation import isolate, new_folder

FOLDER = pytest.StashKey()


def pytest_configure(config):
    """Nothing of the machine's own is read (tests/isolation.py); workers inherit that. What tests
    start can be interrupted, even where a shell started them in the background."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.stash[FOLDER] = new_folder()
        isolate(config.stash[FOLDER])
    sys.dont_write_bytecode = False
    gc.disable()  # until all is collected: what is imported stays
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


#: No bound on wall time, and the same examples at each run.
hypothesis.settings.register_profile("here", deadline=None, derandomize=True)
hypothesis.settings.load_profile("here")


def pytest_unconfigure(config):
    if folder := config.stash.get(FOLDER, None):
        end_gate_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


#: Below the folder of the run: which test was the first after which a gate had been started there.
STARTED_BY = "gate-started-by"


def end_gate_of(folder):
    """End the gate that a portal without a data folder of its own has left, and say whose it is."""
    for process in psutil.process_iter(["cmdline"]):
        if any(f"{folder}/" in word for word in process.info["cmdline"] or ()):
            process.kill()
            note = folder / STARTED_BY
            print(
                f"ended {process.pid}, {process.info['cmdline']}, which was left by "
                f"{note.read_text() if note.exists() else 'a test'}",
                file=sys.stderr,
            )


#: Below tests/: what starts programs. Who imports from them, or has a fixture of theirs, is
#: marked `portal`.
STARTS = (
    *("running.py", "crowd.py", "login_node.py", "tunnel_site.py", "single_slurm.py", "sshd.py"),
    *("front_server.py", "fixtures/gate_site.py", "fixtures/session_script.py"),
    *("fixtures/containers.py", "contract/small_gate.py", "contract/conftest.py"),
    *("e2e/conftest.py", "security/conftest.py", "pages/conftest.py", "benchmark_runs.py"),
    *("fakes/provider.py", "fakes/lying_provider.py"),
)
HERE = Path(__file__).resolve().parent
_STARTS = frozenset(str(HERE / name) for name in STARTS)


def _from(thing):
    """The file that defines this function, class or module."""
    module = (
        thing
        if isinstance(thing, ModuleType)
        else sys.modules.get(getattr(thing, "__module__", None) or "")
    )
    return getattr(module, "__file__", None)


@functools.cache
def _imports_a_start(module):
    things = [x for x in vars(module).values() if isinstance(x, (type, FunctionType, ModuleType))]
    return any(_from(thing) in _STARTS for thing in things)


def _mark(item):
    """Mark a test by what it uses, so that nobody has to remember."""
    used = getattr(item, "_fixtureinfo", None)
    definitions = [d for known in used.name2fixturedefs.values() for d in known] if used else []
    files = {inspect.unwrap(d.func).__code__.co_filename for d in definitions}
    if "browser" in item.fixturenames:
        item.add_marker(pytest.mark.browser)
    if files & _STARTS or _imports_a_start(item.module) or item.path.parent == HERE / "e2e":
        item.add_marker(pytest.mark.portal)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        _mark(item)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _who_starts_the_local_gate(request):
    yield
    data = Path(os.environ["SCENEBRIDGE_DATA"])
    if (data / "embedded").exists() and not (note := data.parent / STARTED_BY).exists():
        note.write_text(request.node.nodeid)


@pytest.fixture(scope="session")
def chromium_address():
    """Where the one Chromium of this worker is driven; Playwright is imported by who needs it."""
    from tests.chromium import started

    with started() as address:
        yield address


@pytest.fixture(scope="module")
def browser(chromium_address):
    from tests.chromium import connected

    with connected(chromium_address) as driven:
        yield driven
