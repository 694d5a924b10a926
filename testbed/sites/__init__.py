"""The words a site is described with, and the sites: one file with a `SITE` each."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field

#: The network between the sites, the portal and the administrator.
WAN = "wan"


@dataclass(frozen=True, slots=True)
class Person:
    """An account.

    Attributes:
        authorised: ada's key may log in to it.
        password: for a login with one; "" where none works.
        environment: what its logins find set, beside the usual.
    """

    name: str
    uid: int
    authorised: bool = False
    password: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machine:
    """A host.

    Attributes:
        links: network -> IPv4 address; the interface has the network's name.
        services: what runs on it, in the order of starting.
        open_to: hosts of the wan that reach its port 22 from there, by name; () for all.
        guarded: nothing but port 22 can be reached from the wan.
        gpus: how many it pretends to have.
    """

    name: str
    links: Mapping[str, str]
    services: tuple[str, ...] = ()
    open_to: tuple[str, ...] = ()
    guarded: bool = True
    gpus: int = 0

    def takes_ssh_of(self, name: str) -> bool:
        """Whether a host of the wan reaches its port 22 from there."""
        return "sshd" in self.services and (not self.open_to or name in self.open_to)


@dataclass(frozen=True, slots=True)
class Site:
    """Hosts that share accounts, a /home and a scheduler.

    Attributes:
        kind: the module of `testbed` that sets its scheduler up; "" for none.
        options: what that module reads.
        shared_home: one /home for all, which is what clusters have.
    """

    name: str
    machines: tuple[Machine, ...]
    people: tuple[Person, ...]
    kind: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    shared_home: bool = True


def every_site() -> list[Site]:
    """What the files of this folder describe, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}").SITE for name in names]
