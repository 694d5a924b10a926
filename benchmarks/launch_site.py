"""The launch on a site of the test-bed, and the same by a script without portal and gate."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import on_a_site
from benchmarks.command import Figures
from benchmarks.one_launch import launch
from testbed.hosts import Host
from testbed.image import BINDS
from testbed.places import IMAGE
from tests.running import wait_for
from tests.sites.standing import CLUSTER, PYTHON, USER, Standing

_MASTER = "/tmp/bare.ctl"
_FORWARD = "/tmp/bare.sock"
_JOB = """\
#!/bin/sh
#SBATCH --no-requeue --time=10 --mem=1000 --output=/dev/null --job-name=bare
port=$({python} -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
mkdir -p bare-home
echo "$(hostname) $port" > {conn}.part && mv {conn}.part {conn}
exec apptainer -q exec --containall --home $PWD/bare-home:/home/{user} {binds} \\
  --env JUPYTER_TOKEN={token} {image} {python} -m jupyterlab --ip 0.0.0.0 --port $port \\
  --ServerApp.port_retries=0 --no-browser
"""


def measure(runs: int, port: int | None) -> tuple[list[Figures], list[Figures], Figures]:
    """Interleaved runs of both, and what setting the site up took, where that was done here.

    Args:
        port: as `benchmarks.on_a_site.site` has it.
    """
    launches, bare = [], []
    with (
        on_a_site.site(port) as (site, set_up_s),
        _master(site.bed.host("admin")) as admin,
        site.api() as api,
    ):
        for _ in range(runs):
            launches.append(launch(api, CLUSTER))
            bare.append(_bare(site, admin))
    return launches, bare, {} if set_up_s is None else {"commands of docs/admin.md": set_up_s}


@contextmanager
def _master(admin: Host) -> Iterator[Host]:
    """Ada's own connection to the login node, for the script."""
    no = subprocess.DEVNULL
    master = admin.popen(
        _ssh("-M", "-N", "-J", f"{USER}@nchc-jump"), "ada", stdin=no, stdout=no, stderr=no
    )
    try:
        wait_for("the master", lambda: admin.path(_MASTER).is_socket())
        yield admin
    finally:
        master.terminate()
        master.wait(20)


def _ssh(*more: str, remote: str = "") -> list[str]:
    argv = ["ssh", "-S", _MASTER, *more, f"{USER}@nchc-login"]
    return [*argv, remote] if remote else argv


def _bare(site: Standing, admin: Host) -> Figures:
    """`sbatch`, a look for the node and port, `ssh -O forward`, and requests until one answers."""
    token, conn = secrets.token_hex(16), f"bare-{secrets.token_hex(4)}"
    binds = " ".join(f"--bind {path}:{path}:ro" for path in BINDS)
    script = _JOB.format(python=PYTHON, user=USER, binds=binds, token=token, image=IMAGE, conn=conn)
    began = time.monotonic()
    job = admin.run(_ssh(remote="sbatch --parsable"), "ada", input=script).stdout.strip()
    submitted = time.monotonic()
    asked = f"cat {shlex.quote(conn)} 2>/dev/null || true"
    place = wait_for(
        "node and port", lambda: admin.run(_ssh(remote=asked), "ada").stdout.split(), every_s=0.02
    )
    found = time.monotonic()
    spec = f"{_FORWARD}:{place[0]}:{place[1]}"
    admin.run(_ssh("-O", "forward", "-o", "StreamLocalBindUnlink=yes", "-L", spec), "ada")
    curl = ["curl", "-sf", "-o", "/dev/null", "--unix-socket", _FORWARD]
    curl += ["-H", f"Authorization: token {token}", "http://localhost/api/status"]
    wait_for("an answer", lambda: admin.run(curl, "ada", check=False).returncode == 0, every_s=0.02)
    answered = time.monotonic()
    admin.run(_ssh("-O", "cancel", "-L", spec), "ada")
    admin.run(_ssh(remote=f"scancel {job}; rm -f {conn}"), "ada")
    admin.run(["rm", "-f", _FORWARD], "ada")
    wait_for("the end", lambda: not site.login.run(["squeue", "-h", "-j", job], check=False).stdout)
    return {
        "bare: sbatch accepted": submitted - began,
        "bare: node and port known": found - submitted,
        "bare: forward and answer": answered - found,
        "bare: all": answered - began,
    }
