"""The container image of a site: empty places to which a host's own programs are bound.

No root file system is built: an image of a few kilobytes with mount points is enough, where
`BINDS` are bound into it.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.errors import BedError
from testbed.places import IMAGE, PROJECT

if TYPE_CHECKING:
    from testbed.hosts import Host

#: What a container needs bound, read-only, to have programs: `apptainer exec --bind ...`.
BINDS = ("/usr", str(PROJECT))

BUILD = f"""
set -eu
umask 022
k=$(mktemp -d) && trap 'rm -rf "$k"' EXIT
export HOME=$k APPTAINER_CONFIGDIR=$k APPTAINER_CACHEDIR=$k
r=$k/root
mkdir -p $r/usr $r/etc $r/tmp $r/proc $r/sys $r/dev $r/home $r/var/tmp $r/run $r/root \
  $r/work $r/opt $r{PROJECT}
for l in bin lib lib64 sbin; do ln -s usr/$l $r/$l; done
echo root:x:0:0:root:/root:/bin/sh > $r/etc/passwd
echo root:x:0: > $r/etc/group
touch $r/etc/resolv.conf $r/etc/hosts $r/etc/localtime
find $r -exec touch -h -d @0 {{}} +
apptainer -s build --mksquashfs-args "-no-xattrs -processors 1" $k/image.sif $r >&2
cat $k/image.sif
"""


def build(host: Host) -> None:
    """Build it as an ordinary user of the site, as which Apptainer works; root then owns it."""
    user = host.site.people[0].name
    folder = str(Path(IMAGE).parent)
    host.run(["install", "-d", "-m", "755", folder])
    with ExitStack() as stack:
        out = stack.enter_context(host.path(f"{folder}/.new").open("wb"))
        made = host.popen(["sh", "-c", BUILD], user, stdout=out, stderr=subprocess.PIPE, text=True)
        stack.enter_context(made)
        stack.callback(made.kill)
        _, said = made.communicate(timeout=300)
    if made.returncode:
        raise BedError(f"The image of {host.site.name} could not be built: {said.strip()}")
    host.run(["mv", f"{folder}/.new", IMAGE])


def checksum(host: Host) -> str:
    """sha256 of the image; "" where there is none."""
    asked = host.run(["sha256sum", IMAGE], check=False)
    return asked.stdout.split(" ")[0]
