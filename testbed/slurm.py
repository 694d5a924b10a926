"""The site kind `slurm`: settings on the hosts' disks, daemons, and when it is ready."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.accounts import machine_account, write
from testbed.errors import BedError
from testbed.sites import Machine, Site

if TYPE_CHECKING:
    from testbed.hosts import Host

#: slurmctld sees a node that answers again within a second or two.
READY_S = 300

CONF = """\
ClusterName={name}
SlurmctldHost={controller}
SlurmUser=slurm
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
{memory}
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=/var/log/slurm/jobcomp.log
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
SelectType=select/cons_tres
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
# Nodes say they have more cores than this machine; 22.05 drains them without it.
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout={lost_after_s}
MessageTimeout={answer_within_s}
KillWait={kill_wait_s}
MinJobAge=300
GresTypes=gpu
NodeName={nodes} CPUs={cpus} RealMemory={memory_mb} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=dev Nodes=ALL Default=YES DefaultTime=10 MaxTime=60 State=UP
PartitionName=gpu Nodes=ALL DefaultTime=60 MaxTime=1440 State=UP
"""
#: What the site's option `memory` chooses. There are no control groups: slurmd itself adds up what
#: the processes of a job use, once a second.
MEMORY = {
    "": "JobAcctGatherType=jobacct_gather/none\nSelectTypeParameters=CR_Core",
    "enforced": """\
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectTypeParameters=CR_Core_Memory""",
}
SPOOLS = {"slurmctld": "slurm", "slurmd": "root"}


def nodes_of(site: Site) -> list[Machine]:
    return [machine for machine in site.machines if "slurmd" in machine.services]


def prepare(site: Site, disks: dict[str, Path]) -> None:
    """Write the settings to the disks (name of host -> its folder) before they start."""
    controller = next(host for host in site.machines if "slurmctld" in host.services)
    nodes = nodes_of(site)
    text = CONF.format(
        name=site.name,
        controller=controller.name,
        nodes=",".join(node.name for node in nodes),
        gpus=nodes[0].gpus,
        **{**site.options, "memory": MEMORY[site.options.get("memory", "")]},
    )
    devices = f"/dev/fakegpu[0-{nodes[0].gpus - 1}]"
    gres = "".join(f"NodeName={node.name} Name=gpu File={devices}\n" for node in nodes)
    munge, key = machine_account("munge"), os.urandom(96).hex()
    for machine in site.machines:
        disk = disks[machine.name]
        write(disk / "etc/slurm/slurm.conf", text)
        write(disk / "etc/slurm/gres.conf", gres)
        # 22.05's slurmd ends without a cgroup plugin; v1, named, needs no cgroup mounted.
        write(disk / "etc/slurm/cgroup.conf", "CgroupPlugin=cgroup/v1\n")
        if "munge" in machine.services:
            write(disk / "etc/munge/munge.key", key, munge, 0o400)
            make_folder(disk / "etc/munge", munge, 0o700)
            for name in ("lib", "log"):
                make_folder(disk / "var" / name / "munge", munge, 0o700)
        make_folder(disk / "var/log/slurm", machine_account("slurm"), 0o755)
        for daemon, owner in SPOOLS.items():
            make_folder(disk / "var/spool" / daemon, machine_account(owner), 0o755)


def make_folder(path: Path, owner: tuple[int, int], mode: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, *owner)
    path.chmod(mode)


def start(host: Host, service: str) -> None:
    """Start one of the daemons on a host."""
    if service == "munge":
        make_folder(host.path("/run/munge"), machine_account("munge"), 0o755)
        host.run(["/usr/sbin/munged", "--num-threads=2"], user="munge")
    elif service == "slurmctld":
        pidfile = host.path("/run/slurmctld.pid")
        write(pidfile, "", machine_account("slurm"))
        host.run(["slurmctld"])
    elif service == "slurmd":
        host.run(["slurmd"])
    else:
        raise BedError(f"{host.name}: nothing is known of a service {service}.")


def wait_ready(login: Host, hosts: Iterable[Host]) -> None:
    """Until those of the hosts that are nodes of this login node's site take jobs.

    Raises:
        BedError: they do not within `READY_S`.
    """
    names = {node.name for node in nodes_of(login.site)}
    wanted = {host.name for host in hosts if host.name in names and host.pid}
    end = time.monotonic() + READY_S
    while waiting := wanted - usable(login):
        if time.monotonic() > end:
            raise BedError(
                f"{', '.join(sorted(waiting))} did not become idle within {READY_S} s; see "
                "/var/log/slurm there (python3 -m testbed shell HOST)."
            )
        time.sleep(0.1)


def usable(login: Host) -> set[str]:
    """The nodes that take jobs, or have some."""
    asked = login.run(["sinfo", "-h", "-N", "-o", "%N %T", "-p", "dev"], check=False)
    states = dict(line.split() for line in asked.stdout.splitlines())
    # "idle*" is one that does not answer.
    return {name for name, state in states.items() if state in {"idle", "mixed", "allocated"}}
