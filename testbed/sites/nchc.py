"""A site in the manner of NCHC's Taiwania 2: a jump host, a login node, Slurm, GPU nodes."""

from testbed.sites import Machine, Person, Site

SITE = Site(
    name="nchc",
    kind="slurm",
    machines=(
        Machine("nchc-jump", {"wan": "10.77.0.11", "nchc": "10.77.1.1"}, services=("sshd",)),
        Machine(
            "nchc-login",
            {"wan": "10.77.0.12", "nchc": "10.77.1.2"},
            services=("sshd", "munge", "slurmctld"),
        ),
        Machine("nchc-n1", {"nchc": "10.77.1.11"}, services=("munge", "slurmd"), gpus=2),
        Machine("nchc-n2", {"nchc": "10.77.1.12"}, services=("munge", "slurmd"), gpus=2),
    ),
    people=(
        Person("u1001", 21001, authorised=True, password="taiwania-1001"),  # noqa: S106
        Person("u1002", 21002, password="taiwania-1002"),  # noqa: S106
    ),
    options={
        "cpus": "8",
        "memory_mb": "8000",
        "kill_wait_s": "15",
        "lost_after_s": "6",
        "answer_within_s": "3",
    },
)
