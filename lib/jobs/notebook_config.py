"""Configuration file of the Jupyter server in a session. Jupyter executes it.

It runs inside the runtime, so it imports nothing of the project. The session script
passes everything by environment; the token is taken out of it again so that kernels do
not inherit it.
"""

import hmac
import json
import os
import sys
from pathlib import Path
from typing import Any

from jupyter_server.auth import IdentityProvider, User  # type: ignore[import-not-found,unused-ignore]

c = get_config()  # type: ignore[name-defined]  # noqa: F821

sys.modules.pop("rfc3987_syntax", None)  # all that must start without it has been loaded

_TOKEN = os.environ.pop("SCENEBRIDGE_TOKEN").encode()
_PRIVATE = Path(os.environ["SCENEBRIDGE_PRIVATE"])
_WORK = os.environ["SCENEBRIDGE_WORK"]
_NOTEBOOK = os.environ.get("SCENEBRIDGE_NOTEBOOK", "")
_FRAME = os.environ.get("SCENEBRIDGE_FRAME_ORIGIN", "")


#: Settings of IPython's kernels, which they execute. ipykernel (tried: 7.4) listens
#: on a TCP port for what forked processes print, and shows what any user of the node sends
#: there. A UNIX socket in the private folder takes its place, as for the channels.
_KERNEL_CONFIG = """\
import os
import zmq
from ipykernel.iostream import IOPubThread
from zmq.eventloop.zmqstream import ZMQStream


def setup_pipe_in(self):
    self._pipe_uuid = os.urandom(16)
    self._pipe_port = f"ipc://{os.environ['JUPYTER_RUNTIME_DIR']}/printed-{os.getpid()}"
    pipe_in = self.socket.context.socket(zmq.PULL)
    pipe_in.linger = 0
    pipe_in.bind(self._pipe_port)
    self._pipe_in = ZMQStream(pipe_in, self.io_loop)
    self._pipe_in.on_recv(self._handle_pipe_msg)


def setup_pipe_out(self):
    context = zmq.Context()
    pipe_out = context.socket(zmq.PUSH)
    pipe_out.linger = 3000
    pipe_out.connect(self._pipe_port)
    return context, pipe_out


IOPubThread._setup_pipe_in = setup_pipe_in
IOPubThread._setup_pipe_out = setup_pipe_out
"""


class HeaderIdentityProvider(IdentityProvider):
    """Lets in only requests with the token in their Authorization header.

    Jupyter's own `token` stays empty, because JupyterLab writes it into its page. The
    portal's proxy adds the header, and checks the visitor, the origin and forgery.
    """

    @property
    def auth_enabled(self) -> bool:
        return True

    async def get_user(self, handler: Any) -> User | None:
        scheme, _, got = handler.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "token" or not hmac.compare_digest(got.encode(), _TOKEN):
            return None
        handler._token_authenticated = True  # Jupyter then skips its own XSRF check
        name = handler.request.headers.get("X-Portal-User", "portal")
        return User(username=name, name=name, display_name=name)

    def validate_security(self, app: object, ssl_options: object = None) -> None:
        """Nothing to warn about: the socket is private and every request needs the token."""


def _kernels() -> None:
    """Where IPython looks for settings of its kernels; made anew for each session."""
    profile = Path(os.environ["IPYTHONDIR"]) / "profile_default"
    profile.mkdir(exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text(_KERNEL_CONFIG)


def _settings() -> Path:
    """Lab's settings for everybody: do not ask about news, which nothing here could fetch."""
    folder = _PRIVATE / "settings"
    folder.mkdir(exist_ok=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": False}
    overrides = {"@jupyterlab/apputils-extension:notification": quiet}
    (folder / "overrides.json").write_text(json.dumps(overrides))
    return folder


_kernels()
c.ServerApp.identity_provider_class = HeaderIdentityProvider
c.HeaderIdentityProvider.token = ""
c.ServerApp.sock = str(_PRIVATE / "jupyter.sock")
c.ServerApp.sock_mode = "0600"
c.ServerApp.root_dir = _WORK
c.ServerApp.open_browser = False
c.ServerApp.allow_root = True  # an account that is root in its container, or on its own computer
c.ServerApp.allow_remote_access = True
c.ServerApp.trust_xheaders = True
c.ServerApp.quit_button = False
c.ServerApp.terminals_enabled = True
c.ServerApp.websocket_ping_interval = 30_000
c.ServerApp.tornado_settings = {
    "headers": {"Content-Security-Policy": f"frame-ancestors 'self' {_FRAME}".strip()},
    "websocket_max_message_size": int(os.environ["SCENEBRIDGE_LARGEST_MESSAGE"]),
}
c.KernelManager.transport = "ipc"
c.LabApp.news_url = None
c.LabApp.app_settings_dir = str(_settings())
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"
c.LabApp.default_url = f"/lab/tree/{_NOTEBOOK}" if _NOTEBOOK else "/lab"
c.FileContentsManager.delete_to_trash = False
