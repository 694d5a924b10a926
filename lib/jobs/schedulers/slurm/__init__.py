"""Scheduler `slurm`: command lines, parsers, and the process calls between them."""

from lib.jobs.schedulers.slurm.scheduler import SlurmScheduler

__all__ = ["SlurmScheduler"]
