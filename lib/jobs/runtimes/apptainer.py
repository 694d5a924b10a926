"""Runtime `apptainer`: each task in a container of its own, without root.

Inside there is the image (read-only) and nothing of the node but: the session's `work`
folder, the node-local private folder as /tmp and home, the files that the task may read at
their own paths, and what the site binds by policy. /dev is minimal, /proc shows the
container's processes only, /sys is there with GPUs alone. The network is the node's.

Tried with Apptainer 1.4.5, with and without a user namespace around it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.errors import InvalidInput
from lib.jobs.config_table import ConfigTable
from lib.jobs.environment import inherited
from lib.jobs.interfaces import Invocation, Task
from lib.model import Isolation

WORK = Path("/session/work")
#: The private folder is bound as a whole: a folder in it could be swapped for a link by
#: one task before the next one starts.
PRIVATE = Path("/tmp")  # noqa: S108 (inside the container)

_MOUNTS_OFF = ("tmp", "home", "cwd", "hostfs", "bind-paths")
#: Where data of the cluster would hide the image, the kernel's file systems or the session.
_TAKEN = tuple(
    Path("/", name)
    for name in (
        *("bin", "sbin", "lib", "lib32", "lib64", "usr", "etc", "opt", "var", "run", "boot"),
        *("dev", "proc", "sys", "root", "tmp", "session", ".singularity.d"),
    )
)
#: Folders of a node that no bind may open; below the first group nothing either.
_CLOSED = tuple(Path("/", name) for name in ("dev", "proc", "sys", "run", "var/run"))
_TOO_MUCH = tuple(Path("/", name) for name in ("", "etc", "var", "tmp", "var/tmp", "root", "boot"))
_NOT_PASSED = frozenset({"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LD_LIBRARY_PATH"})
#: Apptainer looks for settings of the account here, and can neither find nor make any.
_NO_HOME = "/proc"
#: How this site reaches others, and whom it trusts.
_NETWORK = frozenset({"http_proxy", "https_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"})
_OWN_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": _NO_HOME,
    "APPTAINER_CONFIGDIR": _NO_HOME,
}


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of the site that every container sees, read-only."""

    source: Path
    target: Path

    @classmethod
    def read(cls, text: str) -> Bind:
        """From "source:target". Raises `InvalidInput`."""
        source, _, target = text.partition(":")
        bind = cls(Path(source), Path(os.path.normpath(target or source)))
        what = f"policy [runtime]: binds entry {text!r:.120}"
        if not bind.source.is_absolute() or not bind.target.is_absolute() or ":" in target:
            raise InvalidInput(f'{what} must be "/source" or "/source:/target", both absolute.')
        real = bind.source.resolve()
        if real in _TOO_MUCH or _is_below(real, _CLOSED):
            raise InvalidInput(f"{what} would open too much of the node.")
        kept = (WORK.parent, PRIVATE, *_CLOSED)
        if bind.target == Path("/") or _is_below(bind.target, kept):
            raise InvalidInput(f"{what} would hide what a container needs at {bind.target}.")
        return bind


@dataclass(frozen=True, slots=True)
class ApptainerRuntime:
    """Runs `python ARGS` in the task's image.

    Args:
        binary: the program on the node.
        python: the interpreter in the image.
        code: folder in the image for the interpreter's import path; None: it needs none.
    """

    binary: Path
    python: Path
    code: Path | None
    binds: tuple[Bind, ...] = ()
    isolation: Isolation = Isolation.CONTAINER
    needs_image: bool = True

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> ApptainerRuntime:
        """From the policy's `[runtime]` table. Raises `InvalidInput`."""
        table = ConfigTable(options, "policy [runtime]")
        binary = Path(table.get("binary", str, "/usr/bin/apptainer"))
        python = Path(table.get("python", str, "/opt/scenebridge/bin/python"))
        code = table.get("code", str, "")
        binds = tuple(Bind.read(text) for text in table.texts("binds"))
        table.close()
        for key, path in (("binary", binary), ("python", python), ("code", Path(code or "/"))):
            if not path.is_absolute():
                raise InvalidInput(f"policy [runtime]: {key} must be an absolute path.")
        return cls(binary, python, Path(code) if code else None, binds)

    @property
    def opened(self) -> tuple[Path, ...]:
        """What the binds open to every task."""
        return tuple(bind.source for bind in self.binds)

    def data_problem(self, path: Path) -> str:
        """Data keeps its own path inside, so it must not lie where the image has its files."""
        below = next((taken for taken in _TAKEN if _is_below(path, (taken,))), None)
        if below is None and path != Path("/"):
            return ""
        return f"{path} would hide {below or 'the image'} in the container"

    def inside(self, task_path: Path, *, work: Path, private: Path) -> Path:
        """Fixed places, whatever the folders are called on the cluster."""
        for outside, place in ((work, WORK), (private, PRIVATE)):
            if task_path == outside or outside in task_path.parents:
                return place / task_path.relative_to(outside)
        return task_path

    def invocation(self, task: Task) -> Invocation:
        """Raises `InvalidInput` for a task without an image, or a path that cannot be bound."""
        if task.image is None:
            raise InvalidInput("The module has no image, which the runtime apptainer needs.")
        for path in task.readable:
            if problem := self.data_problem(path):
                raise InvalidInput(f"{problem}; it cannot be read there.")
        off = _MOUNTS_OFF if task.gpus else (*_MOUNTS_OFF, "sys")
        argv = (
            *(str(self.binary), "--quiet", "exec"),
            *("--containall", "--cleanenv", "--uts", "--no-eval"),
            *("--no-mount", ",".join(off)),
            *("--home", f"{_NO_HOME}:{PRIVATE}"),  # sets HOME; nothing is mounted for it
            *(("--nv",) if task.gpus else ()),
            *self._mounts(task),
            *("--pwd", str(PRIVATE)),
            *(str(task.image), str(self.python), *task.args),
        )
        return Invocation(argv, self._env(task), Path("/"), watched=True)

    def fetch(self, reference: str, target: Path, scratch: Path) -> Invocation:
        """`apptainer pull`, with nothing of the account: registries that ask who we are refuse."""
        argv = (str(self.binary), "pull", "--disable-cache", str(target), reference)
        network = {k: v for k, v in os.environ.items() if k.lower() in _NETWORK}
        own = {"APPTAINER_TMPDIR": str(scratch), "APPTAINER_CACHEDIR": str(scratch)}
        return Invocation(argv, {**_OWN_ENV, **network, **own}, scratch)

    def problem(self) -> str:
        """Says when the program is missing on this computer."""
        if not os.access(self.binary, os.X_OK):
            return (
                f"Apptainer is missing: {self.binary}. The site installs it, or the gate's "
                "policy names another path."
            )
        for bind in self.binds:
            if not bind.source.exists():
                return f"The binds of the policy name {bind.source}, which does not exist."
        return ""

    def _mounts(self, task: Task) -> Iterable[str]:
        yield from (x for b in self.binds for x in _mount(b.source, b.target, read_only=True))
        yield from _mount(task.work, WORK)
        yield from _mount(task.private, PRIVATE)
        yield from (x for path in task.readable for x in _mount(path, path, read_only=True))

    def _env(self, task: Task) -> dict[str, str]:
        """Apptainer's own environment: nothing of the account, and the task's by prefix."""
        inside = {k: v for k, v in inherited().items() if k not in _NOT_PASSED}
        if not task.gpus:
            inside.pop("CUDA_VISIBLE_DEVICES", None)
        inside.setdefault("LANG", "C.UTF-8")
        inside["TMPDIR"] = str(PRIVATE)
        if self.code is not None:
            inside["PYTHONPATH"] = str(self.code)
        inside.update(task.env)
        return {**_OWN_ENV, **{f"APPTAINERENV_{key}": value for key, value in inside.items()}}


def _mount(source: Path, target: Path, *, read_only: bool = False) -> tuple[str, str]:
    """`--mount` takes a line of comma-separated values, so any path can be named but one."""
    if any("\n" in str(path) or "\r" in str(path) for path in (source, target)):
        raise InvalidInput(f"{str(source)!r:.120} cannot be bound: its name has line breaks.")
    fields = ("type=bind", f"source={source}", f"destination={target}")
    quoted = [f'"{field.replace(chr(34), chr(34) * 2)}"' for field in fields]
    return ("--mount", ",".join([*quoted, "ro"] if read_only else quoted))


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path == folder or folder in path.parents for folder in folders)
