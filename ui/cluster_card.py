"""One card per cluster: its state in words, its tunnel, its gate, what is free and offered
there, whether the asker may start work, and what to do while it cannot be asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import streamlit as st

from lib.model import (
    Cluster,
    Isolation,
    Module,
    Preset,
    Reachability,
    Seal,
    Tunnel,
    TunnelState,
)
from ui import queues
from ui.launch_form import ENDS_WITH_PORTAL, NO_ISOLATION, preset_text
from ui.text import duration, esc, now, tag, to_minute, walltime

_SEALS = {
    Seal.SEALED: (
        "good",
        "The key that opened it can forward to the gate and run nothing, so whoever breaks into "
        "the portal's computer gets no shell there.",
    ),
    Seal.UNSEALED: (
        "warn",
        "The key that opened it can also run commands on the cluster. While it is open, whoever "
        "is root on the portal's computer could use that; its administrator can seal the key.",
    ),
    Seal.UNKNOWN: ("warn", "Whether the key that opened it can run anything there is not known."),
}
_COMMAND = "python "


def show(cluster: Cluster, modules: Sequence[Module]) -> None:
    """Draw one card.

    Args:
        modules: what this portal offers, to say which of it are missing there.
    """
    time = now()
    with st.container(border=True, key=f"cluster-{cluster.id}"):
        st.html(_head(cluster, time) + _trouble(cluster))
        _mend(cluster)
        if cluster.configured:
            st.html(_facts(cluster, modules, time))
        if cluster.load:
            st.html(queues.table(cluster, time))


# --- how it is ------------------------------------------------------------------------


def _head(cluster: Cluster, time: datetime) -> str:
    reachable = cluster.reachability is Reachability.REACHABLE
    word, kind = ("can be asked", "good") if reachable else ("cannot be asked", "bad")
    since = cluster.reachable_since if reachable else cluster.unreachable_since
    marks = [tag(word, kind)]
    if cluster.runtime and cluster.isolation is Isolation.NONE:
        marks.append(tag(NO_ISOLATION, "warn"))
    if not cluster.configured:
        marks.append(tag("not configured", "warn"))
    elif cluster.lacks_tunnel:
        marks.append(tag("for you, once its tunnel is open", "warn"))
    elif cluster.refused:
        marks.append(tag("not for you", "warn"))
    else:
        marks.append(tag("you may start work here", "good"))
    clock = f"since {to_minute(since)}, for {_ago(time, since)}" if since else ""
    return (
        f'<div class="sb-card-head"><h2>{esc(cluster.title)}</h2>'
        f'<span class="clock">{esc(clock)}</span></div>'
        f"<div>{''.join(marks)}</div>"
        f'<p class="sb-facts">{esc(_whose(cluster))}</p>'
    )


def _whose(cluster: Cluster) -> str:
    return f"{cluster.institute} · {cluster.id}" if cluster.institute else str(cluster.id)


def _trouble(cluster: Cluster) -> str:
    said = []
    if cluster.reachability is Reachability.UNKNOWN and cluster.unreachable_reason:
        said.append(("bad", cluster.unreachable_reason))
    said += [("warn", trouble) for trouble in cluster.troubles]
    if cluster.refused and cluster.configured and not cluster.lacks_tunnel:
        said.append(("info", cluster.refused))
    return "".join(
        f'<div class="sb-problem {kind}" role="status">{esc(text)}</div>' for kind, text in said
    )


def _mend(cluster: Cluster) -> None:
    if not cluster.mend:
        return
    st.html('<h3 class="sb-section">What to do</h3>')
    for who, what in cluster.mend:
        if what.startswith(_COMMAND):
            st.html(f'<p class="sb-reason"><b>{esc(who)}</b> runs on the portal\'s computer:</p>')
            st.code(what, language=None, wrap_lines=True)
        else:
            st.html(f'<p class="sb-reason"><b>{esc(who)}</b>: {esc(what)}</p>')


# --- what is known of it -----------------------------------------------------------------


def _facts(cluster: Cluster, modules: Sequence[Module], time: datetime) -> str:
    rows = [("Tunnel", _tunnel(cluster, time))]
    if cluster.gate_version:
        rows += [
            ("Gate", _gate(cluster)),
            ("Jobs", _jobs(cluster)),
            ("Resources", _presets(cluster.presets)),
            ("Modules", _modules(cluster, modules)),
        ]
    else:
        rows.append(("Gate", esc("Nothing is known of it yet.")))
    return f'<dl class="sb-known">{"".join(_row(name, text) for name, text in rows)}</dl>'


def _row(name: str, text: str) -> str:
    return f"<div><dt>{esc(name)}</dt><dd>{text}</dd></div>"


def _tunnel(cluster: Cluster, time: datetime) -> str:
    tunnel = cluster.tunnel
    if tunnel is None:
        return esc("None is needed: it is the portal's own computer.")
    if tunnel.state is TunnelState.NONE:
        return tag("never opened", "warn")
    owner = f"for {cluster.belongs_to}" if cluster.belongs_to else "for nobody: a mistake"
    said = [f"Opened by {tunnel.account} {owner}"]
    if tunnel.opened_at:
        said[0] += f" on {to_minute(tunnel.opened_at)}"
    if tunnel.login_node:
        said.append(f"leads to {tunnel.login_node}")
    if tunnel.state is TunnelState.CLOSED:
        ended = f" on {to_minute(tunnel.closed_at)}" if tunnel.closed_at else ""
        why = f": {tunnel.reason}" if tunnel.reason else "."
        return tag("closed", "bad") + esc(f"{', '.join(said)}. It closed{ended}{why}")
    return _open_tunnel(tunnel, ", ".join(said), time)


def _open_tunnel(tunnel: Tunnel, said: str, time: datetime) -> str:
    left = ""
    if tunnel.until:
        seconds = (tunnel.until - time).total_seconds()
        left = f" It closes on {to_minute(tunnel.until)}, in {duration(seconds)}."
    kind, meaning = _SEALS[tunnel.seal]
    return (
        f"{tag('open', 'good')}{tag(str(tunnel.seal), kind)}{esc(f'{said}.{left}')}"
        f'<br><span class="sb-soft">{esc(f"{str(tunnel.seal).capitalize()}: {meaning}")}</span>'
    )


def _gate(cluster: Cluster) -> str:
    parts = [f"version {cluster.gate_version}"]
    if cluster.node:
        parts.append(f"on {cluster.node}")
    if cluster.account:
        parts.append(f"as {cluster.account}")
    return esc(" ".join(parts))


def _jobs(cluster: Cluster) -> str:
    text = f"scheduler {cluster.scheduler}, runtime {cluster.runtime}"
    if cluster.max_live:
        text += f"; {cluster.live} of {cluster.max_live} places taken"
    if cluster.own_computer:
        text += f"; {ENDS_WITH_PORTAL}"
    return esc(text)


def _presets(presets: Iterable[Preset]) -> str:
    items = [
        f"<li>{esc(p.title)}: {esc(preset_text(p))}, at most {esc(walltime(p.max_walltime_s))}</li>"
        for p in presets
    ]
    return f'<ul class="sb-plain">{"".join(items)}</ul>' if items else esc("none")


def _modules(cluster: Cluster, modules: Sequence[Module]) -> str:
    """What is installed there; then what this portal offers and is not, so that it is missed."""
    titles = {str(m.id): m.title for m in modules}
    offered = {(str(m.id), m.version) for m in modules}
    items = []
    for module_id, version in cluster.modules:
        other = "" if (module_id, version) in offered else tag("not offered by this portal", "")
        items.append(f"<li>{esc(titles.get(module_id, module_id))} {esc(version)} {other}</li>")
    for module in modules:
        if (str(module.id), module.version) not in cluster.modules:
            missing = tag("not installed there", "warn")
            items.append(f"<li>{esc(module.title)} {esc(module.version)} {missing}</li>")
    return f'<ul class="sb-plain">{"".join(items)}</ul>' if items else esc("none")


def _ago(time: datetime, since: datetime) -> str:
    return duration((time - since).total_seconds())
