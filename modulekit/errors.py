"""The errors of a module run. Every message is one plain sentence for a user.

ModuleError
├── UsageError    the command line, the parameters or the input catalog; exit code 2
├── SceneError    one scene cannot be worked on; the other scenes go on
└── DiskFull      a result could not be written
"""

from __future__ import annotations


class ModuleError(Exception):
    """Base of everything that a module reports to its user."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UsageError(ModuleError):
    pass


class SceneError(ModuleError):
    pass


class DiskFull(ModuleError):
    pass
