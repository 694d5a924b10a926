"""What a cluster's gate says to the portal's own key: its version, policy and scheduler."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from lib import __version__
from lib.doctor.check import Check
from lib.errors import SceneBridgeError
from lib.portal.advice import advice
from lib.tunnels.link import ClusterLink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lib.config.clusters import ClusterEntry
    from lib.config.settings import Settings
    from lib.model import Tunnel
    from lib.protocol.messages import GateInfo, WatchMessage
    from lib.tunnels.gate_address import GateAddress

_LIMIT_S = 60.0


def checks(
    chosen: Settings,
    entry: ClusterEntry,
    tunnel: Tunnel | None,
    address: GateAddress,
    host_key: str,
) -> Iterator[Check]:
    """Ask as the portal would, over a connection of our own that ends with the look.

    Args:
        tunnel: None for this computer.
    """
    name = f"cluster {entry.id}"
    try:
        # Beside the runtime folder of the portal: a socket's address must be short.
        with tempfile.TemporaryDirectory(prefix="sb-", dir=chosen.runtime.parent) as folder:
            link = ClusterLink(
                entry.id,
                gate_address=lambda: address,
                key=chosen.data / "keys" / entry.id,
                host_key=host_key,
                runtime=Path(folder),
            )
            info, now = asyncio.run(_ask(link))
    except SceneBridgeError as exc:
        what = advice(entry, tunnel, getattr(exc, "fault", ""), one_person=chosen.single_user)
        todo = what[0][1] if what else f"admin.py gate status {entry.id}"
        yield Check(f"{name}: gate", False, f"{exc.message.rstrip('.')}: {todo}")
        return
    except (OSError, TimeoutError) as exc:
        yield Check(f"{name}: gate", False, f"it could not be asked ({exc or 'no answer'}): "
                    f"admin.py gate status {entry.id}")  # fmt: skip
        return
    yield Check(f"{name}: gate", True, _gate_text(entry, tunnel, info))
    yield policy(entry, info)
    yield scheduler(entry, info, now)


async def _ask(link: ClusterLink) -> tuple[GateInfo, WatchMessage]:
    try:
        async with asyncio.timeout(_LIMIT_S):
            info = await link.info()
            async with aclosing(link.watch({})) as messages:
                return info, await anext(messages)
    finally:
        await link.disconnect()


def _gate_text(entry: ClusterEntry, tunnel: Tunnel | None, info: GateInfo) -> str:
    through = f" through the tunnel of {tunnel.account}" if tunnel is not None else ""
    said = f"version {info.gate_version} answers{through}"
    if info.gate_version == __version__ or entry.embedded:
        return said
    return f"{said}; admin.py gate upgrade {entry.id} brings {__version__}"


def policy(entry: ClusterEntry, info: GateInfo) -> Check:
    """Whether anybody could start anything by it, and what of it cannot work now."""
    name = f"cluster {entry.id}: policy"
    lacks = [w for w, there in (("module", info.modules), ("preset", info.presets)) if not there]
    if lacks:
        return Check(
            name, False, f"it allows no {' and no '.join(lacks)}, so nothing can be started: "
            f"admin.py gate policy {entry.id}",
        )  # fmt: skip
    if info.troubles:
        return Check(name, False, f"{' '.join(info.troubles).rstrip('.')}: "
                     f"admin.py gate status {entry.id}")  # fmt: skip
    modules = ", ".join(f"{m.id} {m.version}" for m in info.modules)
    presets = ", ".join(p.name for p in info.presets)
    return Check(
        name, True, f"{modules} in {info.runtime}, presets {presets}, "
        f"{info.live} of at most {info.max_live} jobs",
    )  # fmt: skip


def scheduler(entry: ClusterEntry, info: GateInfo, now: WatchMessage) -> Check:
    """Whether it answered the gate when that asked last."""
    name = f"cluster {entry.id}: scheduler"
    silent = info.scheduler == "slurm" and info.presets and not info.load
    if not now.asked_ok or silent:
        why = now.reason or f"{info.scheduler} does not say how busy its queues are"
        return Check(name, False, f"{why.rstrip('.')}: ask the help desk of "
                     f"{entry.institute or entry.title}")  # fmt: skip
    return Check(name, True, f"{info.scheduler} answers")
