"""The administrator's agent: whether there is one, and which keys it would use."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from enum import Enum

from lib.errors import Refused, Unavailable
from lib.tunnels.outer.admin_ssh import environment

_TIMEOUT_S = 20
_NO_KEYS, _NO_AGENT = 1, 2

ADVICE = (
    "On your own computer, add your key and come again with a forwarded agent: "
    "`ssh-add -t 1h -h PORTAL -h 'PORTAL>LOGIN-NODE' KEY`, then `ssh -A PORTAL`. "
    "The -h limit what the key can be used for while you are here; a jump host needs a "
    "-h 'PORTAL>JUMP-HOST' more."
)


class AgentState(Enum):
    NONE = "there is no agent"
    EMPTY = "the agent holds no key that may be used here"
    KEYS = "the agent holds keys"


@dataclass(frozen=True, slots=True)
class Agent:
    """`keys` are public keys as in authorized_keys, with their comments."""

    state: AgentState
    keys: tuple[str, ...] = ()

    def sentence(self) -> str:
        """What it means for whoever signs in; empty where all is well."""
        match self.state:
            case AgentState.NONE:
                return f"No agent was forwarded to this host. {ADVICE}"
            case AgentState.EMPTY:
                return f"Your agent holds no key that may be used from this host. {ADVICE}"
            case AgentState.KEYS:
                return ""

    def require(self) -> None:
        """Raises Refused where it could not sign anything."""
        if self.state is not AgentState.KEYS:
            raise Refused(self.sentence())


def agent_state() -> Agent:
    """Ask the agent of this environment, if there is one.

    A key that was added with `-h` is listed only where it may be used.

    Raises:
        Unavailable: `ssh-add` is missing or does not answer.
    """
    try:
        done = subprocess.run(
            ["ssh-add", "-L"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as exc:
        raise Unavailable("ssh-add was not found; install the OpenSSH client.") from exc
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(
            f"Your agent did not answer within {_TIMEOUT_S} s. Is your own computer connected?"
        ) from exc
    if done.returncode == 0:
        return Agent(AgentState.KEYS, tuple(line for line in done.stdout.splitlines() if line))
    return Agent(AgentState.EMPTY if done.returncode == _NO_KEYS else AgentState.NONE)
