"""Load of a cluster's queues: as a table, and in one line."""

from __future__ import annotations

from datetime import datetime

from lib.model import Cluster, QueueLoad
from ui.text import duration, esc, walltime

_COLUMNS = ("Queue", "Nodes free", "Cores free", "GPUs free", "Waiting", "Longest time")
#: In one line no more queues than these.
_MOST = 3


def table(cluster: Cluster, time: datetime) -> str:
    """The queues as an HTML table; it can be scrolled on narrow screens, by keyboard too."""
    name = f"Queues of {cluster.title}"
    age = ""
    if cluster.load_at:
        age = f", {duration((time - cluster.load_at).total_seconds())} ago"
    head = "".join(f'<th scope="col">{esc(c)}</th>' for c in _COLUMNS)
    body = "".join(_row(queue) for queue in cluster.load)
    return (
        f'<div class="sb-scroll" tabindex="0" role="region" aria-label="{esc(name)}">'
        f'<table class="sb-scenes"><caption>{esc(name)}{esc(age)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(queue: QueueLoad) -> str:
    cells = (
        _of(queue.nodes_free, queue.nodes),
        _of(queue.cores_free, queue.cores),
        _of(queue.gpus_free, queue.gpus) if queue.gpus else "none",
        f"{queue.waiting:,}",
        walltime(queue.longest_s) if queue.longest_s else "not known",
    )
    texts = "".join(f"<td>{esc(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{esc(queue.name)}</th>{texts}</tr>'


def free(cluster: Cluster) -> str:
    """gpu: 3 of 10 nodes and 2 of 8 GPUs free; the queues with most free nodes first."""
    queues = sorted(cluster.load, key=lambda q: -q.nodes_free)[:_MOST]
    several = len(cluster.load) > 1
    return "; ".join((f"{q.name}: " if several else "") + _free(q) for q in queues)


def _free(queue: QueueLoad) -> str:
    gpus = f" and {_of(queue.gpus_free, queue.gpus)} GPUs" if queue.gpus else ""
    return f"{_of(queue.nodes_free, queue.nodes)} nodes{gpus} free"


def _of(some: int, all_: int) -> str:
    return f"{some:,} of {all_:,}"
