"""The first policy of a cluster: little, and what an administrator has to fill in."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from lib.config.policy_toml import module_entry, toml_table
from lib.errors import InvalidInput
from lib.model import JsonObject, JsonValue, json_object, json_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lib.model import ClusterId, Module

_HEAD = """\
# What this gate allows, and all that it allows: docs/gate.md explains every key. Edit it with
# `admin.py gate policy {cluster}`; empty lists allow nothing.
format = 1
cluster = {name}
users = ["*"]              # whose jobs are taken; "*" is everybody whom the portal lets start
stop_files = []            # kill switches of the site beside STOP in this folder
portal_origins = {origins}   # the portal as browsers see it: may show notebooks in a frame
data_paths = []            # folders of this cluster with scenes that jobs may read
https_hosts = []           # hosts that jobs may read scenes from
# scratch = "/tmp"         # where on a node a job's own folder is made, e.g. "$SLURM_TMPDIR"
"""
_LIMITS = {
    "max_live": 8,
    "max_live_per_user": 2,
    "max_gpus": 4,
    "max_gpu_hours": 200,
    "max_disk_mb": 20_000,
    "keep_days": 14,
    "idle_s": 3600,
}
_PRESET: JsonObject = {
    "name": "small",
    "title": "2 cores, 4 GB",
    "cores": 2,
    "memory_mb": 4000,
    "gpus": 0,
    "max_walltime_s": 4 * 3600,
    "default_walltime_s": 3600,
    "flags": [],
}
_FLAGS_NOTE = """\
# flags: the site's own options of the scheduler, for example its partition and account:
# flags = ["--partition=gpu", "--account=MST000000"]"""
_IMAGES_NOTE = """\
# A module needs its image on this cluster, and is offered once it is named here with it:"""


def first_policy(
    cluster: ClusterId,
    port: int,
    scheduler: JsonObject,
    runtime: JsonObject,
    origins: Sequence[str],
    modules: Iterable[Module],
) -> str:
    """The text of `policy.toml`.

    Modules are offered at once where nothing but their code is needed; where they need
    images they stand there as comments.
    """
    lines = [
        _HEAD.format(cluster=cluster, name=json.dumps(cluster), origins=json.dumps([*origins]))
    ]
    lines += toml_table("listen", {"port": port})
    lines += toml_table("scheduler", scheduler)
    lines += toml_table("runtime", runtime)
    lines += toml_table("limits", _LIMITS)
    images = runtime["name"] != "process"
    if images:
        lines += ["", _IMAGES_NOTE]
    for module in modules:
        lines += _module(module, commented=images)
    lines += [*toml_table("[presets]", _PRESET), _FLAGS_NOTE]
    return "\n".join(lines) + "\n"


def found_scheduler(facts: JsonObject, wanted: str) -> dict[str, JsonValue]:
    """The `[scheduler]` table for what was asked for, or found.

    Raises:
        InvalidInput: nothing was found and nothing asked for.
    """
    sbatch = json_object(facts["programs"]).get("sbatch")
    name = wanted or ("slurm" if sbatch else "")
    if not name:
        raise InvalidInput(
            "No scheduler was found on the login node (there is no sbatch on the account's "
            "PATH): name it with --scheduler."
        )
    if name == "slurm" and sbatch:
        return {"name": name, "bin": str(PurePosixPath(json_text(sbatch)).parent)}
    return {"name": name}


def found_runtime(facts: JsonObject, wanted: str) -> dict[str, JsonValue]:
    """The `[runtime]` table for what was asked for, or found. Errors as above."""
    programs = json_object(facts["programs"])
    binary = programs.get("apptainer") or programs.get("singularity") or ""
    name = wanted or ("apptainer" if binary else "")
    if not name:
        raise InvalidInput(
            "No container runtime was found on the login node (neither apptainer nor singularity "
            "is on the account's PATH): name one with --runtime."
        )
    if name == "apptainer":
        return {"name": name, **({"binary": binary} if binary else {})}
    if name == "process":
        return {"name": name, "python": facts["executable"]}
    return {"name": name}


def _module(module: Module, *, commented: bool) -> Iterator[str]:
    values = module_entry(module)
    if commented:
        values |= {"image": "/PATH/TO/IMAGE.sif", "sha256": "ITS CHECKSUM"}
    for line in toml_table("[modules]", values):
        yield f"# {line}" if commented and line else line
