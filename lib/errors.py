"""One error tree. Every message is fit for a user and says what to do.

SceneBridgeError
├── NotFound                 there is no such thing, or it is not yours
├── Refused                  it is there, but not allowed
│   └── SignInEnded          who asks is not signed in any more
├── InvalidInput             the request itself is wrong
│   └── InvalidProduct       a product that cannot be read as a scene
├── Conflict                 not in this state
├── Unavailable              could not ask; `transient`
│   ├── ClusterUnreachable
│   ├── SceneUnavailable
│   └── StorageFull
└── ProtocolError            the other side broke the contract

`transient` tells whether the same call may succeed later without a change.
"Could not ask" is always an `Unavailable`, never a failure of the thing asked for.
Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations


class SceneBridgeError(Exception):
    """Base of all errors that may be shown to a user."""

    code = "error"
    transient = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotFound(SceneBridgeError):
    code = "not-found"


class Refused(SceneBridgeError):
    code = "refused"


class SignInEnded(Refused):
    code = "not-signed-in"


class InvalidInput(SceneBridgeError):
    code = "invalid"


class InvalidProduct(InvalidInput):
    code = "invalid-product"


class Conflict(SceneBridgeError):
    code = "conflict"


class Unavailable(SceneBridgeError):
    code = "unavailable"
    transient = True


class ClusterUnreachable(Unavailable):
    """`fault` is one of `lib.model.Fault`: where the trouble lies, as far as it is known."""

    code = "cluster-unreachable"

    def __init__(self, message: str, *, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


class SceneUnavailable(Unavailable):
    code = "scene-unavailable"


class StorageFull(Unavailable):
    code = "storage-full"


class ProtocolError(SceneBridgeError):
    code = "protocol"


def _tree(cls: type[SceneBridgeError]) -> dict[str, type[SceneBridgeError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found.update(_tree(sub))
    return found


def from_code(code: str, message: str) -> SceneBridgeError:
    """The error of this tree that another process reported by its `code`."""
    return _tree(SceneBridgeError).get(code, SceneBridgeError)(message)
