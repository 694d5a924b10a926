"""The launch on a site of the test-bed, and the same by a script without portal and gate."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.command import Figures
from benchmarks.one_launch import launch
from testbed import Bed
from testbed.hosts import Host
from testbed.image import BINDS
from testbed.places import IMAGE
from tests.running import wait_for
from tests.sites.standing import CLUSTER, PYTHON, USER, Standing, fetch_wheels, standing

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


def measure(runs: int) -> tuple[list[Figures], list[Figures], Figures]:
    """Interleaved runs of both on a bed of their own, and what setting it up took.

    That is every command of docs/admin.md, from an empty portal host and an empty account on
    the cluster until the portal reaches the gate, typed by a program.
    """
    launches, bare = [], []
    with tempfile.TemporaryDirectory(prefix="sb-launch-") as folder:
        bed = Bed(Path(folder) / "bed")
        bed.up()
        try:
            wheels = fetch_wheels(Path(folder) / "wheels")
            began = time.monotonic()
            with standing(bed, wheels) as site:
                set_up = {"commands of docs/admin.md": time.monotonic() - began}
                admin = bed.host("admin")
                no = subprocess.DEVNULL
                master = _ssh("-M", "-N", "-J", f"{USER}@nchc-jump")
                admin.popen(master, "ada", stdin=no, stdout=no, stderr=no)
                wait_for("the master", lambda: admin.path(_MASTER).is_socket())
                with site.api() as api:
                    for _ in range(runs):
                        launches.append(launch(api, CLUSTER))
                        bare.append(_bare(site, admin))
        finally:
            bed.down()
    return launches, bare, set_up


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
