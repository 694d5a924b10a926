"""The HTTP API for programs, and what the pages fetch. Same rules, same `Portal`.

`docs/openapi.yaml` documents it; a test holds the two against each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from lib.web.api import audit, offerings, runs, scenes, service, sessions
from lib.web.api.answers import error_answer, guarded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send


def routes() -> list[Route]:
    """All routes of the API, for the portal's own origin; the last takes what no other does."""
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
    known = [Route(path, guarded(handler), methods=[method]) for method, path, handler in table]
    return [*known, Route("/api/{rest:path}", NoRoute(known))]


class NoRoute:
    """For what is below /api and no route: 405 with what the address takes, or 404. A program
    that mistyped an address would get the page behind it otherwise."""

    def __init__(self, known: list[Route]) -> None:
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        of_path = [route for route in self._known if route.path_regex.match(path)]
        methods = sorted({method for route in of_path for method in route.methods or ()})
        if methods:
            why = f"This address takes {' and '.join(methods)} only."
            answer = error_answer(405, "invalid", why, {"Allow": ", ".join(methods)})
        else:
            answer = error_answer(404, "not-found", "There is no such address; see docs/api.md.")
        await answer(scope, receive, send)
