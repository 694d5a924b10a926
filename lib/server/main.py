"""What `./run` becomes once the project is set up: the portal with its embedded cluster.

    python -m lib.server.main [--port PORT] [--notebook-port PORT] [--data DIR] [--no-browser]

Without a provider in the settings everything runs for one person on loopback, and a one-time
link signs them in. A portal that is stopped (Ctrl-C, SIGTERM) stops all that it started; one
that is killed leaves gate, ssh master and jobs running, and the next one takes them over.

Exit codes: 0 it was stopped, 1 it could not start or go on, 2 usage, 130 it was interrupted
before it was ready.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import html
import logging
import math
import os
import shutil
import signal
import socket
import sys
import threading
import webbrowser
from contextlib import ExitStack
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from lib.auth import auth_of
from lib.config import settings
from lib.config.data_dir import PortalRecord, lock_data_folder, make_data_folder, running_portal
from lib.config.offerings import load_offerings, offered
from lib.config.runtime_dir import make_runtime_folder, name_data_folder
from lib.errors import SceneBridgeError, Unavailable
from lib.http.hardening import allow_many_files
from lib.http.listeners import check_notebook_port, listen
from lib.loops import Loops
from lib.portal import facade
from lib.server.gate_links import end_masters
from lib.server.local_gate import CLUSTER, LocalGate
from lib.server.module_cache import fill_module_cache
from lib.server.sample_scenes import ingest_once
from lib.server.systemd import Notices
from lib.server.uvicorn_server import PortalServer
from lib.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from lib.config.offerings import Offerings
    from lib.config.settings import Settings

_WATCH_S = 2.0
#: A stop takes no longer: ending live jobs has its grace time (`lib.server.local_gate`).
_STOP_S = 150.0
_SIGN_IN_PAGE = "sign-in.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a portal until it is told to stop; the exit code."""
    options = _options(arguments)
    data = Path(options.data).expanduser().absolute()
    os.chdir(settings.PROJECT)  # Streamlit reads .streamlit/config.toml from there
    os.umask(0o077)
    allow_many_files()
    notices = Notices.of()
    signals = _Signals()
    try:
        chosen = settings.load(data, port=options.port, notebook_port=options.notebook_port)
        settings.use(chosen)
        with ExitStack() as stack:
            listeners = _prepare(chosen, stack)
            _log_into(chosen.data / "portal.log")
            offerings = offered(load_offerings(settings.PROJECT), chosen)
            cluster = LocalGate(chosen, offerings) if CLUSTER in offerings.clusters else None
            stack.callback(_stop, chosen, cluster, signals)
            stack.callback(notices.stopping, _STOP_S)
            if cluster is not None:
                cluster.start()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                server = _serve(
                    chosen,
                    offerings,
                    cluster,
                    listeners,
                    signals,
                    notices,
                    browser=not options.no_browser,
                )
                runner.run(server)
    except SceneBridgeError as exc:
        print(f"SceneBridge: {exc.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("SceneBridge was stopped before it was ready.", file=sys.stderr)
        return 130
    print("SceneBridge has stopped.")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run", description="Start SceneBridge on this computer.", allow_abbrev=False
    )
    parser.add_argument("--port", type=int, help="port of the portal (default: 8501)")
    parser.add_argument(
        "--notebook-port", type=int, help="port of the notebooks (default: the portal's port + 1)"
    )
    parser.add_argument(
        "--data",
        default=settings.DEFAULT_DATA,
        metavar="DIR",
        help="folder for everything that is kept (default: var/ in the project)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    return parser.parse_args(arguments)


class _Signals:
    """One handler for SIGINT, SIGTERM and SIGHUP; what it does follows the portal's phase."""

    def __init__(self) -> None:
        self.act: Callable[[], None] = _interrupt
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets SIGHUP
                signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        act, self.act = self.act, _ask_for_patience
        act()


def _interrupt() -> None:
    raise KeyboardInterrupt


def _ask_for_patience() -> None:
    print("Still stopping; a moment, please.", flush=True)


def _log_into(file: Path) -> None:
    """Everything that is logged goes to a file; the terminal keeps to what a user needs."""
    handler = RotatingFileHandler(file, maxBytes=5 * 2**20, backupCount=2, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("lib").setLevel(logging.INFO)


# --- before ---------------------------------------------------------------------------------


def _prepare(chosen: Settings, stack: ExitStack) -> list[socket.socket]:
    """All that can stand in the way of a start, checked before anything is started."""
    running = PortalRecord(os.getpid(), chosen.origin, str(chosen.runtime))
    listeners = _take_ports(chosen, running, stack)
    for program in ("ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            raise Unavailable(
                f"the program {program} is missing. Install the OpenSSH client "
                "(on Debian or Ubuntu: sudo apt install openssh-client) and start again."
            )
    make_data_folder(chosen.data)
    stack.enter_context(lock_data_folder(chosen.data, running))
    make_runtime_folder(chosen.runtime)
    name_data_folder(chosen.runtime, chosen.data)
    Store(chosen.data / "portal.sqlite").close()
    return listeners


def _take_ports(chosen: Settings, running: PortalRecord, stack: ExitStack) -> list[socket.socket]:
    """The portal's sockets, before anything is written."""
    try:
        listeners = listen(
            chosen.port,
            f" Choose another, for example: ./run --port {chosen.port + 10}",
            address=chosen.listen,
        )
        for listener in listeners:
            stack.callback(listener.close)
        check_notebook_port(chosen)
    except SceneBridgeError:
        if running_portal(chosen.data) is not None:
            with lock_data_folder(chosen.data, running):  # says that this is why
                pass
        raise
    return listeners


# --- while it runs ----------------------------------------------------------------------------


async def _serve(
    chosen: Settings,
    offerings: Offerings,
    cluster: LocalGate | None,
    listeners: list[socket.socket],
    signals: _Signals,
    notices: Notices,
    *,
    browser: bool,
) -> None:
    """Serve until a signal; says when it is ready and what is running at the end."""
    server = PortalServer(chosen.trusted_proxies)
    signals.act = server.stop
    serving = asyncio.create_task(server.serve(sockets=listeners))
    beside = [asyncio.create_task(_keep_gate(cluster))] if cluster is not None else []
    try:
        await server.ready(serving)
        # What was loaded stays: without this each full collection looks at all of it, which
        # stops every page for a tenth of a second.
        gc.freeze()
        beside.append(asyncio.create_task(notices.feed_watchdog()))
        beside.append(asyncio.create_task(_fill_on_first_start(chosen, offerings)))
        if not server.stopping.is_set():
            _announce(chosen, notices, browser=browser)
        await server.stopping.wait()
        notices.stopping(_STOP_S)
        _say_what_runs(chosen)
        await serving
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


async def _fill_on_first_start(chosen: Settings, offerings: Offerings) -> None:
    """Sample scenes, then compiled modules; one after the other, as people wait for pages."""
    await ingest_once(chosen.data, facade.current().report_sample_scenes)
    await fill_module_cache(offerings.modules, chosen.data / "cache")


def _announce(chosen: Settings, notices: Notices, *, browser: bool) -> None:
    """Say where the portal is. A link that signs in is only for the terminal of the one
    person who uses it: not for a service's journal, and not where people have accounts."""
    if notices or not chosen.single_user:
        print(f"SceneBridge is ready: {chosen.origin}", flush=True)
        notices.ready(f"Ready at {chosen.origin}")
        return
    store = Store(chosen.data / "portal.sqlite")
    try:
        link = auth_of(chosen, store).links.new(chosen.origin)
    finally:
        store.close()
    print(f"SceneBridge is ready: {link}", flush=True)
    if browser:
        _open_browser(link, chosen.data / _SIGN_IN_PAGE)


def _open_browser(link: str, page: Path) -> None:
    """Open the link by way of a private file: other accounts can read a browser's argv.

    Only where there is a screen: a text browser would take the terminal.
    """
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        address = html.escape(link)
        page.unlink(missing_ok=True)
        page.touch(mode=0o600)
        page.write_text(f'<meta http-equiv="refresh" content="0;url={address}">\n', "utf-8")
        threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()


async def _keep_gate(cluster: LocalGate) -> None:
    """Start the gate again when it dies; its jobs go on meanwhile."""

    async def look() -> None:
        await asyncio.sleep(_WATCH_S)
        try:
            if await asyncio.to_thread(cluster.address) is None:
                await asyncio.to_thread(cluster.start)
        except SceneBridgeError as exc:
            print(f"SceneBridge: {exc.message}", file=sys.stderr)

    loops = Loops("The portal", logging.getLogger(__name__))
    await loops.add("looked after the gate of this computer", late_after_s=math.inf).run(look)


# --- afterwards -------------------------------------------------------------------------------


def _say_what_runs(chosen: Settings) -> None:
    store = Store(chosen.data / "portal.sqlite")
    try:
        notebooks = store.work.live_sessions(CLUSTER)
        inside = {session.run for session in notebooks}
        runs = [run for run in store.work.live_runs(CLUSTER) if run.id not in inside]
        titles = [session.title for session in notebooks] + [run.title for run in runs]
    finally:
        store.close()
    print("\nStopping SceneBridge.", flush=True)
    if titles:
        print(f"On this computer these run and end now; their files are kept: {', '.join(titles)}")


def _stop(chosen: Settings, cluster: LocalGate | None, signals: _Signals) -> None:
    """End the jobs and the gate of this computer and every ssh master, and remove the
    runtime folder. What runs on clusters goes on there."""
    signals.act = _ask_for_patience
    (chosen.data / _SIGN_IN_PAGE).unlink(missing_ok=True)
    try:
        if cluster is not None:
            cluster.stop()
    finally:
        asyncio.run(end_masters(chosen))
        shutil.rmtree(chosen.runtime, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
