"""Where things are: words that both sides, outside and inside the hosts, go by."""

from pathlib import Path

#: Below the bed's folder: a tmpfs that only the bed's own processes see.
LIVE = "live"
#: Where every host has the project.
PROJECT = Path("/opt/scenebridge")
#: Where a site with Slurm has its container image.
IMAGE = "/home/images/scenebridge.sif"
