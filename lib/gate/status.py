"""What an administrator asks of a gate's folder: is the policy right, and what runs?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lib.errors import InvalidInput
from lib.gate import VERSION
from lib.gate.images.store import Images
from lib.gate.job_record import SessionFolders
from lib.gate.policy import Policy, load
from lib.gate.state_dir import StateDir, this_node
from lib.jobs.control_files import ROOT


def check(state_dir: StateDir, policy_file: Path | None = None) -> Mapping[str, object]:
    """Read a policy as `serve` will; `problems` are sentences about what cannot work yet.

    Args:
        policy_file: another one than the folder's own.
    Raises:
        InvalidInput: it is no policy, or one of another cluster.
    """
    policy = load(policy_file or state_dir.path / "policy.toml", state_dir.path)
    if policy_file is not None and policy.cluster != state_dir.policy_cluster():
        raise InvalidInput(
            f"The policy is for {policy.cluster}, not for {state_dir.policy_cluster()}."
        )
    return {
        "cluster": policy.cluster,
        "modules": len(policy.modules),
        "port": policy.port,
        "problems": problems_of(policy, state_dir),
    }


def problems_of(policy: Policy, state_dir: StateDir) -> list[str]:
    """Why something that the policy offers cannot work; empty when all is well."""
    first = policy.runtime().problem()
    found = [first] if first else []
    notebooks = [module.notebook for module in policy.modules if module.notebook]
    found += [f"The notebook {file} is missing." for file in notebooks if not file.is_file()]
    found += Images(SessionFolders(state_dir.path).images, policy).check()
    if not policy.modules:
        found.append("The policy allows no module, so nothing can be started.")
    if not policy.presets:
        found.append("The policy offers no resources ([[presets]]), so nothing can be started.")
    if not policy.users:
        found.append('The policy takes jobs from nobody; users = ["*"] is everybody.')
    return found


def status(state_dir: StateDir) -> Mapping[str, object]:
    """What runs, where, and what is wrong; never raises for a wrong policy."""
    try:
        policy: Policy | None = state_dir.policy()
        problems = problems_of(policy, state_dir) if policy is not None else []
    except InvalidInput as exc:
        policy, problems = None, [exc.message]
    here = state_dir.node in ("", this_node())
    running = state_dir.running() if here else None
    if running is not None and state_dir.trouble:
        problems = [state_dir.trouble, *problems]
    stop_file = state_dir.active_stop_file(policy.stop_files if policy is not None else ())
    live = [record for record in SessionFolders(state_dir.path).load() if record.live]
    return {
        "running": running is not None,
        "pid": running.pid if running else None,
        "port": running.port if running else (policy.port if policy else None),
        "node": state_dir.node,
        "this_node": this_node(),
        "version": VERSION,
        "code": ROOT.name,
        "running_code": running.code if running else "",
        "live": len(live),
        "live_users": len({record.owner for record in live}),
        "gpus": sum(record.gpus for record in live),
        "problems": problems,
        "kill_switch": str(stop_file) if stop_file is not None else "",
    }
