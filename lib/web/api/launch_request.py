"""The body of a request that starts a session or a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lib.errors import InvalidInput
from lib.model import (
    ClusterId,
    JsonValue,
    LaunchRequest,
    ModuleId,
    Resources,
    SceneId,
    json_list,
    json_object,
    json_text,
)
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
        data = json_object(json.loads(body, parse_constant=no_constant))
        # What cannot be stored: a lone surrogate, and 1e999, which is infinite.
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        resources = json_object(data["resources"])
        launch = LaunchRequest(
            scenes=tuple(SceneId(json_text(scene)) for scene in json_list(data["scenes"])),
            module=ModuleId(json_text(data["module"])),
            params=json_object(data.get("params", {})),
            cluster=ClusterId(json_text(data["cluster"])),
            resources=Resources(json_text(resources["preset"]), _whole(resources["walltime_s"])),
            title=json_text(data.get("title", "")),
        )
    except KeyError as exc:
        raise InvalidInput(f"The request lacks {exc.args[0]!r}. See /api/openapi.yaml.") from exc
    except (ValueError, TypeError, RecursionError) as exc:
        raise InvalidInput(
            "The request is not the JSON object that /api/openapi.yaml describes: "
            "not JSON, or a field of the wrong type."
        ) from exc
    return launch


def _whole(value: JsonValue) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 60.0 is an integer of JSON Schema
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a whole number is expected, not {value!r:.60}")
    return value
