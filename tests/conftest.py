"""What holds for all tests: where they look for things, what they are marked with, and the
browser that they share."""

import functools
import gc
import inspect
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import hypothesis
import psutil
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.isolation import PROJECT, isolate, new_folder

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
hypothesis.settings.register_profile(
    "here",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
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


#: Below tests/: what starts programs. A test is marked `portal` where it, a fixture of its or a
#: function of its file names something that is defined there.
STARTS = (
    *("running.py", "crowd.py", "login_node.py", "tunnel_site.py", "single_slurm.py", "sshd.py"),
    *("front_server.py", "fixtures/gate_site.py", "fixtures/session_script.py"),
    *("fixtures/containers.py", "contract/small_gate.py", "contract/conftest.py"),
    *("e2e/conftest.py", "security/conftest.py", "pages/conftest.py", "benchmark_runs.py"),
    *("fakes/provider.py", "fakes/lying_provider.py"),
)
HERE = Path(__file__).resolve().parent
_STARTS = frozenset(str(HERE / name) for name in STARTS)
_E2E = str(HERE / "e2e") + os.sep
_DEFINED = (type, FunctionType, ModuleType)


def _from(thing):
    """The file that defines this function, class or module."""
    module = (
        thing
        if isinstance(thing, ModuleType)
        else sys.modules.get(getattr(thing, "__module__", None) or "")
    )
    return getattr(module, "__file__", None)


def _names(code):
    """What a function and those inside it name outside of themselves."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


@functools.cache
def _starts(thing):
    """Whether a function or class, or what it names in its own file, names something that starts
    programs."""
    if isinstance(thing, type):
        inside = [getattr(part, "fget", part) for part in vars(thing).values()]
        return any(_from(base) in _STARTS for base in thing.__mro__) or any(
            _starts(part) for part in inside if isinstance(part, FunctionType)
        )
    named = set(_names(thing.__code__)) & thing.__globals__.keys()
    things = [inspect.unwrap(thing.__globals__[name]) for name in named - {thing.__name__}]
    things = [x for x in things if isinstance(x, _DEFINED)]
    here = thing.__code__.co_filename
    return any(_from(x) in _STARTS for x in things) or any(
        _starts(x) for x in things if not isinstance(x, ModuleType) and _from(x) == here
    )


@functools.cache
def _is_or_starts(function):
    """Whether a test or fixture is defined where programs are started, or starts some."""
    function = inspect.unwrap(function)
    return function.__code__.co_filename in _STARTS or _starts(function)


def _mark(item):
    """Mark a test by what it uses, so that nobody has to remember."""
    used = getattr(item, "_fixtureinfo", None)
    definitions = [d for known in used.name2fixturedefs.values() for d in known] if used else []
    if "browser" in item.fixturenames:
        item.add_marker(pytest.mark.browser)
    if (
        str(item.path).startswith(_E2E)
        or any(_is_or_starts(d.func) for d in definitions)
        or _is_or_starts(item.function)
    ):
        item.add_marker(pytest.mark.portal)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks, and what takes longest first: workers begin with what stands first."""
    for item in items:
        _mark(item)
    items.sort(key=lambda item: _comes(item.path))


@functools.cache
def _comes(file):
    return (not _is_served(file), file.parent != HERE / "e2e")


@functools.cache
def _is_served(file):
    """Whether the file looks at the served portal (tests/pages/browser_fixtures.py)."""
    return "tests.pages.browser_fixtures import" in file.read_text("utf-8")


class ByFile(LoadScopeScheduling):
    """Files go to whoever is free, but for those that look at the served portal: one worker has
    them all, so that the portal and its Chromium are started once."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return "served" if _is_served(PROJECT / file) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log) if config.option.dist == "loadscope" else None


def pytest_collection_finish():
    # pytest hangs its handlers on each logger that does not propagate, before and after each phase
    # of each test: Streamlit has 70 of them.
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("streamlit") and isinstance(logger, logging.Logger):
            logger.propagate = True
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
