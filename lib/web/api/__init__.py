"""The HTTP API for programs, and what the pages fetch. Same rules, same `Portal`.

`docs/openapi.yaml` documents it; a test holds the two against each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from lib.web.api import audit, offerings, runs, scenes, service, sessions
from lib.web.api.answers import guarded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response


def routes() -> list[Route]:
    """All routes of the API, for the portal's own origin."""
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/healthz", service.healthz),
        ("GET", "/api/openapi.yaml", service.openapi),
        ("GET", "/api/me", service.me),
        ("GET", "/api/scenes", scenes.scenes),
        ("GET", "/api/scenes/{scene}", scenes.scene),
        ("GET", "/api/scenes/{scene}/quicklook.webp", scenes.quicklook),
        ("GET", "/api/scenes/{scene}/tiles/{z}/{x}/{y}.webp", scenes.tile),
        ("GET", "/api/footprints", scenes.footprints),
        ("GET", "/api/modules", offerings.modules),
        ("GET", "/api/clusters", offerings.clusters),
        ("GET", "/api/sessions", sessions.sessions),
        ("POST", "/api/sessions", sessions.open_session),
        ("GET", "/api/sessions/{session}", sessions.session),
        ("DELETE", "/api/sessions/{session}", sessions.stop_session),
        ("POST", "/api/sessions/{session}/keep", sessions.keep_session),
        ("GET", "/api/runs", runs.runs),
        ("POST", "/api/runs", runs.start_run),
        ("GET", "/api/runs/{run}", runs.run),
        ("DELETE", "/api/runs/{run}", runs.stop_run),
        ("GET", "/api/runs/{run}/detections", runs.detections),
        ("GET", "/api/runs/{run}/scenes/{scene}/chips/{n}.webp", runs.chip),
        ("GET", "/api/runs/{run}/scenes/{scene}/overview.webp", runs.overview),
        ("GET", "/api/audit.jsonl", audit.audit),
    ]
    return [Route(path, guarded(handler), methods=[method]) for method, path, handler in table]
