"""Where a site keeps what its portal must not be able to change: two folders of root's.

* `clusters/*.toml` below the site folder (`/etc/scenebridge`, or SCENEBRIDGE_SITE): the
  site's clusters, beside those of `catalogs/clusters`;
* the tunnel folder (`/var/lib/scenebridge-tunnels`, or SCENEBRIDGE_TUNNELS): one folder
  per administrator's account, where that account keeps its tunnels' sockets and records.

Both are read by the portal in its own account and by administrators in theirs.
"""

from __future__ import annotations

import os
from pathlib import Path


def site_folder() -> Path:
    """The folder with the site's own cluster files."""
    return Path(os.environ.get("SCENEBRIDGE_SITE", "/etc/scenebridge"))


def tunnel_folder() -> Path:
    """The folder with one folder per administrator who may open tunnels."""
    return Path(os.environ.get("SCENEBRIDGE_TUNNELS", "/var/lib/scenebridge-tunnels"))
