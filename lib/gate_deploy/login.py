"""Sign in to a login node as the administrator, to set up its gate."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import Refused, SceneBridgeError
from lib.gate_deploy import bundle, wheels
from lib.gate_deploy.connection import NodeConnection, SshTarget, source_files
from lib.tunnels.outer import admin_ssh, admission
from lib.tunnels.outer.agent import AgentState, agent_state
from lib.tunnels.outer.ssh_errors import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lib.config.clusters import ClusterEntry


def refuse_portal(data: Path, tunnels: Path) -> None:
    """The portal's account must never hold what opens a shell on a cluster.

    Args:
        data: the data folder of a portal on this computer; it need not exist.
        tunnels: its tunnel folder; the portal's group may enter what is in it.
    Raises:
        Refused: this is that account.
    """
    me = os.geteuid()
    if me == 0:
        return
    groups = {os.getegid(), *os.getgroups()}
    try:
        owner: int | None = (data / "portal.sqlite").stat().st_uid
    except OSError:
        owner = None
    try:
        entered = {f.stat().st_gid for f in tunnels.iterdir() if f.is_dir()}
    except OSError:
        entered = set()
    if owner == me or groups & entered:
        raise Refused(
            "This is the portal's account, and a gate is set up by an administrator in an account "
            "of their own, here or on their own computer: what signs in to a cluster must not "
            "come near the portal."
        )


@contextmanager
def signed_in(
    entry: ClusterEntry, user: str, say: Callable[[str], None]
) -> Iterator[NodeConnection]:
    """A connection to the login node of a cluster.

    Raises:
        Refused: somebody else could change what would be sent, or ssh was not let in.
        ClusterUnreachable: the node does not answer.
        NotFound: it has no suitable Python.
    """
    login, gate = admin_ssh.login_of(entry)
    account = admin_ssh.account_on(entry, user)
    own = [entry.file] if entry.file else []
    sent = [*bundle.shipped_files(), *source_files(), wheels.PINS]
    admission.require_safe([*own, *sent, *admission.code_files()])
    prompts = sys.stdin.isatty()
    agent = agent_state()
    if not prompts:
        agent.require()
    elif agent.state is not AgentState.KEYS:
        say(f"{agent.sentence()}\nssh may ask you for a password now.")

    def explain(said: str) -> SceneBridgeError:
        return reason(said, entry)

    with tempfile.TemporaryDirectory(prefix="sb-") as folder:
        config = admin_ssh.write_config(entry, Path(folder), user=account, prompts=prompts)
        target = SshTarget(
            argv=lambda command: admin_ssh.command(config, command),
            environment=admin_ssh.environment(),
            explain=explain,
            name=f"the login node of cluster {entry.id} ({login.host})",
            python=gate.python,
        )
        say(f"Signing in to {account}@{login.host} …")
        with NodeConnection(target) as connection:
            yield connection
