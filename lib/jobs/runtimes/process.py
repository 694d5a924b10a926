"""Runtime `process`: a Python of this computer. It isolates nothing.

A notebook or module runs with all rights of the account, and can read the gate's own
files. It is for trying out on one's own computer; a cluster uses containers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.errors import InvalidInput
from lib.jobs.config_table import ConfigTable
from lib.jobs.control_files import ROOT
from lib.jobs.environment import inherited
from lib.jobs.interfaces import Invocation, Task
from lib.model import Isolation


@dataclass(frozen=True, slots=True)
class ProcessRuntime:
    """Runs `python ARGS` with `code` on its import path.

    Args:
        python: the interpreter, with the modules' packages installed.
        code: the folder that holds the package `modules`; the gate's own unless named.
        cache: folder for compiled code that outlives the job, or None.
    """

    python: Path
    code: Path
    cache: Path | None
    isolation: Isolation = Isolation.NONE
    needs_image: bool = False
    opened: tuple[Path, ...] = ()

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> ProcessRuntime:
        """From the policy's `[runtime]` table. Raises `InvalidInput`."""
        table = ConfigTable(options, "policy [runtime]")
        python = Path(table.get("python", str))
        code = Path(table.get("code", str, str(ROOT)))
        cache = table.get("cache", str, "")
        table.close()
        for key, path in (("python", python), ("code", code), ("cache", Path(cache or "/"))):
            if not path.is_absolute():
                raise InvalidInput(f"policy [runtime]: {key} must be an absolute path.")
        return cls(python, code, Path(cache) if cache else None)

    def data_problem(self, path: Path) -> str:  # noqa: ARG002
        """None: every path is what it is."""
        return ""

    def inside(self, task_path: Path, *, work: Path, private: Path) -> Path:  # noqa: ARG002
        """The same path: there is no container."""
        return task_path

    def invocation(self, task: Task) -> Invocation:
        """Python itself, with a short environment and the private folder as cwd."""
        env = inherited()
        env["PATH"] = f"{self.python.parent}:{env.get('PATH', '/usr/bin:/bin')}"
        env["PYTHONPATH"] = str(self.code)
        env["TMPDIR"] = str(task.private)
        env.setdefault("LANG", "C.UTF-8")
        if self.cache is not None:
            env["NUMBA_CACHE_DIR"] = str(self.cache)
        env.update(task.env)
        return Invocation((str(self.python), *task.args), env, task.private)

    def fetch(self, reference: str, target: Path, scratch: Path) -> Invocation:  # noqa: ARG002
        """Never: it has no images."""
        raise InvalidInput("The runtime process takes no images.")

    def problem(self) -> str:
        """Says when the interpreter or the code folder is missing."""
        if not os.access(self.python, os.X_OK):
            return f"The Python of the policy is missing: {self.python}."
        if not self.code.is_dir():
            return f"The code folder of the policy is missing: {self.code}."
        return ""
