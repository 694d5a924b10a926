"""Parse and validate the policy, `policy.toml`: what a gate allows.

The file is edited only by logging in to the cluster, never by a verb. An empty
list allows nothing. docs/gate.md explains every key.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lib.errors import InvalidInput
from lib.gate.image_reference import ImageName, read_image_name
from lib.jobs.config_table import ConfigTable
from lib.jobs.control_files import ROOT
from lib.jobs.interfaces import Runtime, Scheduler
from lib.jobs.runtimes import make_runtime
from lib.jobs.schedulers import make_scheduler
from lib.jobs.scratch import USUAL, check_place
from lib.model import Preset
from lib.protocol.messages import NAME_PATTERN, ModuleOffer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = 1
_DAY_S = 86_400
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,39}")
_ENTRY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:([0-9]{1,5}|\*))?")
_TITLE = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_USER = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_STAGED_MB = 100_000
_MOST_GPUS = 10_000
_MOST_GPU_HOURS = 10_000_000


@dataclass(frozen=True, slots=True)
class AllowedModule:
    """A module that may run: `python -m entry` in the runtime.

    `notebook` is copied into each new session; None where the module has none. `image` is
    what it runs in; None where the runtime takes none.
    """

    id: str
    version: str
    entry: str
    notebook: Path | None
    image: ImageName | None = None


@dataclass(frozen=True, slots=True)
class AllowedPreset:
    """A named set of resources and the site's scheduler flags behind the name."""

    preset: Preset
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Quotas. `max_disk_bytes` is per session; `idle_s` 0 means never.

    `max_staged_bytes` is of all files that were sent for jobs not submitted yet.
    `max_gpus` is of live jobs together, `max_gpu_hours` of 30 days (`lib.gate.quotas`).
    """

    max_live: int
    max_live_per_user: int
    max_gpus: int
    max_gpu_hours: int
    max_disk_bytes: int
    max_staged_bytes: int
    keep_s: int
    idle_s: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy, checked.

    Args:
        users: owners whose jobs are taken; `*` is everybody.
        stop_files: see `lib.gate.kill_switch`.
        scratch: where on a node a job's own folder is made (`lib.jobs.scratch`).
    """

    cluster: str
    port: int
    users: tuple[str, ...]
    stop_files: tuple[Path, ...]
    portal_origins: tuple[str, ...]
    data_paths: tuple[Path, ...]
    https_hosts: tuple[str, ...]
    scheduler_name: str
    scheduler_options: Mapping[str, object]
    runtime_name: str
    runtime_options: Mapping[str, object]
    modules: tuple[AllowedModule, ...]
    presets: tuple[AllowedPreset, ...]
    limits: Limits
    scratch: str = USUAL

    def scheduler(self, state_dir: Path) -> Scheduler:
        """The scheduler that this policy names."""
        return make_scheduler(self.scheduler_name, self.scheduler_options, state_dir)

    def runtime(self) -> Runtime:
        """The runtime that this policy names."""
        return make_runtime(self.runtime_name, self.runtime_options)

    def offers(self) -> list[ModuleOffer]:
        """The modules as the portal sees them."""
        return [ModuleOffer(m.id, m.version) for m in self.modules]

    def module(self, module_id: str, version: str) -> AllowedModule | None:
        """The allowed module of that id and version."""
        return next((m for m in self.modules if (m.id, m.version) == (module_id, version)), None)

    def preset(self, name: str) -> AllowedPreset | None:
        """The preset of that name."""
        return next((p for p in self.presets if p.preset.name == name), None)

    def may_frame(self, origin: str) -> bool:
        """Whether this portal origin may show a notebook in a frame."""
        if _ORIGIN.fullmatch(origin) is None or "*" in origin:
            return False
        any_port = re.sub(r":[0-9]+\Z", "", origin) + ":*"
        return origin in self.portal_origins or any_port in self.portal_origins

    def may_read_host(self, address: str) -> bool:
        """Whether jobs may read this https address."""
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError:
            return False
        plain = address.isascii() and not re.search(r"[\x00-\x20\x7f\\]", address)
        return (
            plain
            and parts.scheme == "https"
            and parts.username is None
            and port in (None, 443)
            and parts.hostname in self.https_hosts
        )


def load(path: Path, state_dir: Path) -> Policy:
    """Read and check a policy file.

    Args:
        state_dir: the gate's own folder, which no rule may open to jobs.
    Raises:
        InvalidInput: with one sentence that names the key.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise InvalidInput(f"The policy {path} cannot be read: {exc.strerror}.") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"The policy {path} is not TOML: {exc}.") from exc
    return parse(data, state_dir, where=str(path))


def parse(data: Mapping[str, object], state_dir: Path, *, where: str = "policy.toml") -> Policy:
    """Check a policy that was read already. Errors as in `load`."""
    table = ConfigTable(data, where)
    table.whole("format", low=FORMAT, high=FORMAT)
    listen = table.table("listen")
    scheduler, scheduler_options = _part(table, "scheduler")
    runtime, runtime_options = _part(table, "runtime")
    made = make_runtime(runtime, runtime_options)
    notebooks = _notebook_folder(runtime, runtime_options)
    modules = tuple(_module(t, notebooks, made, state_dir) for t in table.tables("modules"))
    presets = tuple(_preset(t) for t in table.tables("presets"))
    policy = Policy(
        cluster=table.text("cluster", like=NAME_PATTERN),
        port=listen.whole("port", 0, high=65535),
        users=_each(table, "users", _USER),
        stop_files=tuple(_stop_file(f, where) for f in table.texts("stop_files")),
        portal_origins=_each(table, "portal_origins", _ORIGIN),
        data_paths=tuple(_data_path(p, state_dir, where, made) for p in table.texts("data_paths")),
        https_hosts=_each(table, "https_hosts", _HOST),
        scheduler_name=scheduler,
        scheduler_options=scheduler_options,
        runtime_name=runtime,
        runtime_options=runtime_options,
        modules=modules,
        presets=presets,
        limits=_limits(table.table("limits")),
        scratch=_scratch(table.get("scratch", str, USUAL), scheduler, state_dir, where),
    )
    listen.close()
    table.close()
    _once("module", [f"{m.id} {m.version}" for m in modules], where)
    _once("preset", [p.preset.name for p in presets], where)
    for path in made.opened:
        _closed(path, state_dir, "policy [runtime]: binds")
    policy.scheduler(state_dir)  # checks its own options
    return policy


def _part(table: ConfigTable, key: str) -> tuple[str, dict[str, object]]:
    options = dict(table.get(key, dict))
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise InvalidInput(f"policy [{key}] lacks the key 'name'.")
    return name, options


def _notebook_folder(runtime: str, options: Mapping[str, object]) -> Path:
    """Where prepared notebooks lie: beside the gate's own code, unless there is no image."""
    own = options.get("code") if runtime == "process" else ""
    return Path(own) if isinstance(own, str) and own else ROOT


def _module(
    table: ConfigTable, notebooks: Path, runtime: Runtime, state_dir: Path
) -> AllowedModule:
    notebook = table.get("notebook", str, "")
    path = notebooks / notebook if notebook else None
    if path is not None and path.suffix != ".ipynb":
        raise InvalidInput(f"The notebook {path} of a module must end in .ipynb.")
    module = AllowedModule(
        id=table.text("id", like=NAME_PATTERN),
        version=table.text("version", like=_VERSION),
        entry=table.text("entry", like=_ENTRY),
        notebook=path,
        image=_image(table, state_dir) if runtime.needs_image else None,
    )
    table.close()
    return module


def _image(table: ConfigTable, state_dir: Path) -> ImageName:
    where = "policy [[modules]]"
    return read_image_name(table.get("image", str), table.get("sha256", str, ""), where, state_dir)


def _preset(table: ConfigTable) -> AllowedPreset:
    longest = table.whole("max_walltime_s", low=60, high=30 * _DAY_S)
    preset = Preset(
        name=table.text("name", like=NAME_PATTERN),
        title=table.text("title", like=_TITLE),
        cores=table.whole("cores", low=1, high=1024),
        memory_mb=table.whole("memory_mb", low=64, high=2**24),
        gpus=table.whole("gpus", 0, high=64),
        max_walltime_s=longest,
        default_walltime_s=table.whole("default_walltime_s", longest, low=60, high=longest),
    )
    flags = table.texts("flags")
    table.close()
    return AllowedPreset(preset, flags)


def _limits(table: ConfigTable) -> Limits:
    max_live = table.whole("max_live", 4, low=0, high=1000)
    max_disk_mb = table.whole("max_disk_mb", 20_000, low=1, high=2**30)
    most_staged_mb = max(_STAGED_MB, max_disk_mb)
    limits = Limits(
        max_live=max_live,
        max_live_per_user=table.whole("max_live_per_user", max_live, high=1000),
        max_gpus=table.whole("max_gpus", _MOST_GPUS, high=_MOST_GPUS),
        max_gpu_hours=table.whole("max_gpu_hours", _MOST_GPU_HOURS, high=_MOST_GPU_HOURS),
        max_disk_bytes=max_disk_mb * 2**20,
        max_staged_bytes=table.whole("max_staged_mb", most_staged_mb, high=2**30) * 2**20,
        keep_s=table.whole("keep_days", 14, high=3650) * _DAY_S,
        idle_s=table.whole("idle_s", 0, high=30 * _DAY_S),
    )
    table.close()
    return limits


def _each(table: ConfigTable, key: str, like: re.Pattern[str]) -> tuple[str, ...]:
    values = table.texts(key)
    for value in values:
        if like.fullmatch(value) is None:
            raise InvalidInput(f"policy: {key} has an entry that is not allowed: {value!r:.80}.")
    return values


def _data_path(text: str, state_dir: Path, where: str, runtime: Runtime) -> Path:
    """A folder that jobs may read; refused where it would open the account or the gate."""
    path = Path(text)
    if not path.is_absolute():
        raise InvalidInput(f"{where}: data_paths entry {text!r:.80} must be an absolute path.")
    real = _closed(path, state_dir, f"{where}: data_paths")
    if problem := runtime.data_problem(real):
        raise InvalidInput(f"{where}: data_paths entry {text}: {problem}.")
    return real


def _closed(path: Path, state_dir: Path, what: str) -> Path:
    """The real path, which may open neither the account's home nor the gate's folder."""
    real = path.resolve()
    gate = state_dir.resolve()
    account = Path.home().resolve()
    if real == account or real in account.parents:
        raise InvalidInput(f"{what} must not contain {path}: that is too much.")
    if real == gate or real in gate.parents or gate in real.parents:
        raise InvalidInput(f"{what} entry {path} would open the gate's own folder.")
    return real


def _scratch(text: str, scheduler: str, state_dir: Path, where: str) -> str:
    """Where a job's own folder is made; what only a node can tell is asked there."""
    try:
        check_place(text)
    except InvalidInput as exc:
        raise InvalidInput(f"{where}: scratch {exc.message}") from exc
    if "$" in text and scheduler == "local":
        raise InvalidInput(
            f"{where}: scratch {text!r:.80} names a variable, and jobs of the scheduler local "
            "have none of their own. Name a folder."
        )
    fixed = Path(text.partition("/$")[0]).resolve() if text.startswith("/") else None
    for kept in (Path.home().resolve(), state_dir.resolve()):
        if fixed is not None and kept != Path("/") and (fixed == kept or kept in fixed.parents):
            raise InvalidInput(f"{where}: scratch {text!r:.80} lies in {kept}.")
    return text


def _stop_file(text: str, where: str) -> Path:
    if not Path(text).is_absolute():
        raise InvalidInput(f"{where}: stop_files entry {text!r:.80} must be an absolute path.")
    return Path(text)


def _once(what: str, names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"{where} names the {what} {name} twice.")
