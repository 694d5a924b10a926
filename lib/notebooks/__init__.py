"""The notebooks' proxy as a process of its own, and the portal's hold on it.

`NotebookProcess` lives in the portal: it starts `lib.notebooks.process`, keeps it alive and
tells it what to do over a pair of connected sockets, in the words of `lib.notebooks.control`.
The process is `lib.proxy` with a server around it.
"""

from lib.notebooks.portal_side import NotebookProcess

__all__ = ["NotebookProcess"]
