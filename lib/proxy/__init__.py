"""The notebook reverse proxy: one origin per notebook, entered with a one-time ticket."""

from lib.proxy.doors import SERVER_SETTINGS
from lib.proxy.middleware import NotebookProxy, Proxy, ProxySettings
from lib.proxy.upstream import Upstream
from lib.proxy.visitors import Gatekeeper

__all__ = [
    "SERVER_SETTINGS",
    "Gatekeeper",
    "NotebookProxy",
    "Proxy",
    "ProxySettings",
    "Upstream",
]
