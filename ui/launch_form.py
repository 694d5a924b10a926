"""The launch form: module, parameters, cluster, resources, and the two buttons.

Each part has a container of its own, so that what comes and goes in one moves no other: while a
page is drawn again, Streamlit shows what has moved at its old place too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import streamlit as st

from lib.errors import SceneBridgeError
from lib.model import (
    Cluster,
    ClusterId,
    Fit,
    Isolation,
    LaunchRequest,
    Module,
    Preset,
    Reachability,
    Resources,
    Scene,
    SceneId,
    TunnelState,
    User,
)
from lib.portal.facade import Portal
from ui import explore_state, layout, live, queues, schema_form
from ui.text import count, duration, esc, join_names, md, now, to_minute, walltime

NO_ISOLATION = "no isolation, for trying out"
ENDS_WITH_PORTAL = "work here ends when the portal is stopped"
#: What a user may pick up to the preset's limit.
WALLTIMES_S = tuple(m * 60 for m in (15, 30, 60, 120, 240, 480, 720, 1440, 2880, 4320, 7200, 10080))
#: As the portal says.
SHORTEST_WALLTIME_S = 60


def show(portal: Portal, user: User, scenes: Sequence[Scene]) -> None:
    """Draw the form; a press of a button starts the work and goes to the Work page."""
    with st.container():
        fit = _module(portal.fits(user, tuple(s.id for s in scenes)), bool(scenes))
    if fit is None:
        return
    module = fit.module
    with st.container():
        filled = _params(module)
    with st.container():
        cluster = _cluster(portal, user, module, bool(scenes))
    if cluster is None:
        return
    with st.container():
        resources = _resources(cluster, bool(scenes)) if _offers(cluster, module) else None
    request = LaunchRequest(
        scenes=tuple(s.id for s in scenes),
        module=module.id,
        params=filled.values,
        cluster=ClusterId(cluster.id),
        resources=resources or Resources("", 0),
    )
    problems = list(filled.problems)
    if not fit.ok:
        problems.append(f"{module.title} does not fit the chosen scenes.")
    if resources is None:
        problems.append(f"{module.title} cannot be started on {cluster.title} now.")
    _buttons(portal, user, request, problems, f"{module.title} on {cluster.title}")


# --- what -----------------------------------------------------------------------------


def _module(fits: Sequence[Fit], chosen_scenes: bool) -> Fit | None:
    """The chosen module. Which one is chosen is never changed by the choice of scenes: from the
    first scene on, the module that was proposed counts as chosen."""
    st.html('<h2 class="sb-section">Detection module</h2>')
    offered = {str(f.module.id): f for f in sorted(fits, key=lambda f: str(f.module.id))}
    if not fits:
        layout.empty_state("No detection module is offered", "The administrator can offer modules.")
        return None
    wish = explore_state.current().module
    if wish and wish not in offered:
        explore_state.add_problem(
            f"The link's module “{wish}” is not offered here and was left out."
        )
        explore_state.update(module="", params={})
        wish = ""
    name = wish or str(fits[0].module.id)  # those that fit come first
    if chosen_scenes:
        explore_state.update(module=name)
    key = explore_state.widget_key("module")
    st.session_state[key] = name
    st.selectbox(
        "Detection module",
        list(offered),
        format_func=lambda name: f"{offered[name].module.title} {offered[name].module.version}",
        key=key,
        on_change=lambda: explore_state.choose_module(st.session_state[key]),
        label_visibility="collapsed",
    )
    fit = offered[name]
    if not fit.ok:
        layout.notice(_misfit_text(fit, fits), "bad")
    st.caption(md(f"{fit.module.summary} {fit.module.false_alarms}".strip()))
    others = [f for f in fits if not f.ok and f is not fit]
    if others:
        with st.expander(count(len(others), "module does", "modules do") + " not fit these scenes"):
            st.html(_reasons(others))
    return fit


def _misfit_text(fit: Fit, fits: Sequence[Fit]) -> str:
    reasons = " ".join(fit.reasons[:3])
    if len(fit.reasons) > 3:
        reasons += f" And {len(fit.reasons) - 3} more."
    good = join_names([f.module.title for f in fits if f.ok], most=3)
    instead = f"What fits: {good}." if good else "No module does: remove some of them."
    return f"{fit.module.title} does not fit all the chosen scenes. {reasons} {instead}"


def _reasons(fits: Sequence[Fit]) -> str:
    rows = (
        f"<li><b>{esc(f.module.title)} {esc(f.module.version)}</b>"
        f"<span>{'<br>'.join(map(esc, f.reasons))}</span></li>"
        for f in fits
    )
    return f'<ul class="sb-reasons">{"".join(rows)}</ul>'


def _params(module: Module) -> schema_form.FormValues:
    if not schema_form.properties(module.params_schema):
        return schema_form.FormValues({}, {})
    state = explore_state.current()
    given = state.params if state.module in ("", str(module.id)) else {}
    with st.expander("Parameters", key=f"params-{module.id}"):
        filled = schema_form.show(
            module.params_schema,
            given,
            key=explore_state.widget_key(f"param-{module.id}-{module.version}"),
        )
    for name in filled.left_out:
        explore_state.add_problem(
            f"The link's value of “{name}” is none that {module.title} knows and was left out."
        )
    if filled.changed:
        explore_state.update(module=str(module.id), params=filled.changed)
        st.caption(f"Changed: {md(', '.join(f'{k} = {v}' for k, v in filled.changed.items()))}")
    elif not filled.problems:
        explore_state.update(params={})
    return filled


# --- where --------------------------------------------------------------------------


def _cluster(portal: Portal, user: User, module: Module, chosen_scenes: bool) -> Cluster | None:
    """The chosen cluster, which is not changed by what it offers either."""
    clusters = {str(c.id): c for c in portal.clusters(user)}
    st.html('<h2 class="sb-section">Cluster</h2>')
    wish = explore_state.current().cluster
    if wish and wish not in clusters:
        refused = {str(c.id): c.refused for c in portal.all_clusters(user)}.get(wish, "")
        explore_state.add_problem(
            f"The link's cluster “{wish}” was left out: {refused}"
            if refused
            else f"The link's cluster “{wish}” is not known here and was left out."
        )
        explore_state.update(cluster="")
        wish = ""
    if not clusters:
        _wait_for_cluster(portal, user)
        return None
    offering = [name for name, cluster in clusters.items() if _offers(cluster, module)]
    name = wish or (offering or list(clusters))[0]
    if chosen_scenes and offering:
        explore_state.update(cluster=name)
    key = explore_state.widget_key("cluster")
    st.session_state[key] = name
    st.radio(
        "Cluster",
        list(clusters),
        format_func=lambda name: _cluster_label(clusters[name]),
        captions=[md(_caption(cluster, module)) for cluster in clusters.values()],
        key=key,
        on_change=lambda: explore_state.choose_cluster(st.session_state[key]),
        label_visibility="collapsed",
    )
    if portal.withheld(user):
        st.caption("One that you may miss is not offered: the page Clusters says why.")
    if name not in offering:
        layout.notice(_no_offer_text(clusters[name], module))
        _wait_for_offer(portal, user, module, name)
    return clusters[name]


def _offers(cluster: Cluster, module: Module) -> bool:
    return (str(module.id), module.version) in cluster.modules


@st.fragment
def _wait_for_cluster(portal: Portal, user: User) -> None:
    """Say why there is none, and draw the page again once there is one."""
    with live.following(portal, user, "clusters", tells_times=False):
        some = bool(portal.clusters(user))
        lacking = [c.title for c in portal.all_clusters(user) if c.lacks_tunnel]
    if some:
        st.rerun()
    if lacking:
        layout.notice(
            f"You can start work on {', '.join(lacking)} once somebody has opened the tunnel to "
            "it. The page Clusters says who can."
        )
    else:
        layout.notice("You may start work on no cluster. The page Clusters says why.")


@st.fragment
def _wait_for_offer(portal: Portal, user: User, module: Module, name: str) -> None:
    """Draw the page again once the cluster offers the module: gates are asked all the time."""
    with live.following(portal, user, "clusters", tells_times=False):
        offered = any(_offers(c, module) for c in portal.clusters(user) if str(c.id) == name)
    if offered:
        st.rerun()


def _no_offer_text(cluster: Cluster, module: Module) -> str:
    """Why nothing can be started there: it was never asked, or it was and lacks the module."""
    if not cluster.gate_version:
        reason = cluster.unreachable_reason or "Nothing has been heard of it yet."
        return (
            f"What {cluster.title} offers is not known yet. {reason} "
            "This page asks again by itself."
        )
    return (
        f"{cluster.title} does not offer {module.title} {module.version}. "
        "Its administrator can add it to the policy of its gate."
    )


def _cluster_label(cluster: Cluster) -> str:
    mark = f" :orange-badge[{NO_ISOLATION}]" if cluster.isolation is Isolation.NONE else ""
    return md(cluster.title) + mark


def _caption(cluster: Cluster, module: Module) -> str:
    said = cluster_caption(cluster)
    if not cluster.gate_version or _offers(cluster, module):
        return said
    lacks = f"does not offer {module.title} {module.version}"
    return f"{said}, {lacks}" if said else lacks


def cluster_caption(cluster: Cluster) -> str:
    """One line about a cluster: whose it is, whether it can be asked, how full it is."""
    parts = [cluster.institute] if cluster.institute else []
    if cluster.reachability is Reachability.UNKNOWN:
        since = cluster.unreachable_since
        ago = f" for {duration((now() - since).total_seconds())}" if since else ""
        reason = f": {cluster.unreachable_reason}" if cluster.unreachable_reason else ""
        parts.append(f"cannot be asked{ago}{reason}")
    elif cluster.max_live:
        parts.append(f"{cluster.live} of {cluster.max_live} places taken")
        if cluster.load:
            parts.append(queues.free(cluster))
    if cluster.own_computer:
        parts.append(ENDS_WITH_PORTAL)
    return ", ".join(parts)


def _resources(cluster: Cluster, chosen_scenes: bool) -> Resources | None:
    presets = {p.name: p for p in cluster.presets}
    if not presets:
        layout.notice(f"{cluster.title} offers no resources; its administrator can add a preset.")
        return None
    state = explore_state.current()
    names = list(presets)
    if state.preset and state.preset not in presets:
        explore_state.add_problem(
            f"The link's resources “{state.preset}” are not offered by {cluster.title} and were "
            "left out."
        )
        state = explore_state.update(preset="", walltime_s=0)
    picked = st.selectbox(
        "Resources",
        names,
        index=names.index(state.preset) if state.preset in presets else 0,
        format_func=lambda name: presets[name].title,
        key=explore_state.widget_key(f"preset-{cluster.id}"),
    )
    preset = presets[picked or names[0]]
    times = allowed_walltimes(preset, state.walltime_s)
    wish = state.walltime_s if state.walltime_s in times else preset.default_walltime_s
    if state.preset == preset.name and state.walltime_s not in (0, wish):
        explore_state.add_problem(
            f"The link's walltime is none that “{preset.title}” allows and was left out."
        )
    st.caption(preset_text(preset))
    seconds = st.selectbox(
        "Walltime, at most",
        times,
        index=times.index(wish),
        format_func=walltime,
        key=explore_state.widget_key(f"walltime-{cluster.id}-{preset.name}"),
        help="The cluster ends the work after this time. It can be stopped earlier.",
    )
    resources = Resources(preset.name, int(seconds or preset.default_walltime_s))
    usual = (names[0], presets[names[0]].default_walltime_s)
    if chosen_scenes or (resources.preset, resources.walltime_s) != usual:
        explore_state.update(preset=resources.preset, walltime_s=resources.walltime_s)
    warning = tunnel_warning(cluster, resources, now())
    if warning:
        layout.notice(warning)
    return resources


def tunnel_warning(cluster: Cluster, resources: Resources, time: datetime) -> str:
    """Said where the tunnel closes before the asked time is over; else empty."""
    tunnel = cluster.tunnel
    if tunnel is None or tunnel.state is not TunnelState.OPEN or tunnel.until is None:
        return ""
    left_s = (tunnel.until - time).total_seconds()
    if left_s >= resources.walltime_s:
        return ""
    return (
        f"The tunnel to {cluster.title} closes at {to_minute(tunnel.until)}, "
        f"in {duration(left_s)}. Your notebook goes on, but cannot be reached after that until "
        "it is opened again."
    )


def allowed_walltimes(preset: Preset, wish: int = 0) -> list[int]:
    """The walltimes that a preset allows, its default and, where it may be, `wish` among them,
    seconds."""
    allowed = {t for t in WALLTIMES_S if t <= preset.max_walltime_s}
    wished = {wish} if SHORTEST_WALLTIME_S <= wish <= preset.max_walltime_s else set()
    return sorted(allowed | wished | {preset.default_walltime_s})


def _memory(megabytes: int) -> str:
    """Whole megabytes below a gigabyte, else gigabytes to a tenth."""
    if megabytes < 1024:
        return f"{megabytes} MB"
    return f"{megabytes / 1024:.1f}".removesuffix(".0") + " GB"


def preset_text(preset: Preset) -> str:
    """What is behind a preset's title: 2 cores, 4 GB."""
    parts = [count(preset.cores, "core"), _memory(preset.memory_mb)]
    if preset.gpus:
        parts.append(count(preset.gpus, "GPU"))
    return ", ".join(parts)


# --- the buttons ---------------------------------------------------------------------


def _buttons(
    portal: Portal, user: User, request: LaunchRequest, problems: Sequence[str], what: str
) -> None:
    stand = list(problems)
    try:
        if request.scenes and not stand:
            portal.check_launch(user, request)
        else:
            portal.check_params(user, request.module, request.params)
    except SceneBridgeError as exc:
        stand.append(exc.message)
    with st.container():
        for text in stand:
            layout.notice(text, "bad")
    ready = bool(request.scenes) and not stand
    with st.container(key="launch"):  # stays on the screen: ui/style.css
        st.html(_launch_line(what, request.scenes, stand))
        with st.container(horizontal=True):
            note = st.button(
                "Open notebook",
                type="primary",
                icon=":material/edit_note:",
                disabled=not ready,
                help="A JupyterLab on the cluster that holds the scenes; "
                "the module runs beside it.",
            )
            scenes = count(len(request.scenes), "scene") if request.scenes else "scenes"
            run = st.button(
                f"Run on {scenes}",
                icon=":material/play_arrow:",
                disabled=not ready,
                key="run",
                help="Only the module runs; the detections appear in Results.",
            )
    if note or run:
        _start(portal, user, request, notebook=note)


def _launch_line(what: str, scenes: Sequence[SceneId], stand: Sequence[str]) -> str:
    """What stands beside the buttons, which may be all that is seen of the form."""
    if not scenes:
        return '<p class="sb-launch">Choose at least one scene first.</p>'
    said = "Cannot be started: the form says why." if stand else f"{what}."
    return f'<p class="sb-launch chosen">{esc(said)}</p>'


def _start(portal: Portal, user: User, request: LaunchRequest, *, notebook: bool) -> None:
    try:
        if notebook:
            portal.open_notebook(user, request)
        else:
            portal.start_run(user, request)
    except SceneBridgeError as exc:
        layout.show_error(exc)
        return
    st.switch_page(layout.WORK)
