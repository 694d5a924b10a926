"""The body of a request that starts a session or a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lib.errors import InvalidInput
from lib.model import LaunchRequest, Resources
from lib.web.api.queries import no_constant

if TYPE_CHECKING:
    from starlette.requests import Request


_MAX_BODY = 2**20


async def launch_request(request: Request) -> LaunchRequest:
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > _MAX_BODY:
            raise InvalidInput("The request is too large.")
    try:
        data = json.loads(body, parse_constant=no_constant)
        json.dumps(data, ensure_ascii=False).encode()  # a lone surrogate cannot be stored
        resources = data["resources"]
        launch = LaunchRequest(
            scenes=tuple(_typed(data["scenes"], list)),
            module=_typed(data["module"], str),
            params=_typed(data.get("params", {}), dict),
            cluster=_typed(data["cluster"], str),
            resources=Resources(
                _typed(resources["preset"], str), _typed(resources["walltime_s"], int)
            ),
            title=_typed(data.get("title", ""), str),
        )
        for scene_id in launch.scenes:
            _typed(scene_id, str)
    except KeyError as exc:
        raise InvalidInput(f"The request lacks {exc.args[0]!r}. See /api/openapi.yaml.") from exc
    except (ValueError, TypeError, RecursionError) as exc:
        raise InvalidInput(
            "The request is not the JSON object that /api/openapi.yaml describes: "
            "not JSON, or a field of the wrong type."
        ) from exc
    return launch


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError
    return value
