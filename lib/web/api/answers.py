"""Answers of the API: JSON, errors as statuses, and asking the Portal in a worker thread."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from lib.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    Refused,
    SceneBridgeError,
    SignInEnded,
    Unavailable,
)
from lib.portal import facade

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from lib.model import JsonValue, User
    from lib.portal.facade import Portal

    Endpoint = Callable[[Request], Awaitable[Response]]

P = ParamSpec("P")
T = TypeVar("T")

_STATUS = (
    (SignInEnded, 401),
    (NotFound, 404),
    (Refused, 403),
    (Conflict, 409),
    (InvalidInput, 422),
    (Unavailable, 503),
)
PICTURE_HEADERS = {"Cache-Control": "private, max-age=3600", "Content-Security-Policy": "sandbox"}


def error_response(error: SceneBridgeError) -> JSONResponse:
    """The one table from errors to HTTP statuses."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    headers = {"Retry-After": "5"} if error.transient else None
    return error_answer(status, error.code, error.message, headers)


def error_answer(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """How every error below /api looks."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def guarded(handler: Endpoint) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except SceneBridgeError as exc:
            return error_response(exc)

    return endpoint


async def ask(
    request: Request,
    method: Callable[Concatenate[Portal, User, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Call a method of the Portal in a worker thread, in the name of who asks."""
    user: User = request.state.user
    return await run_in_threadpool(method, facade.current(), user, *args, **kwargs)


def json_response(
    value: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    content = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    return Response(content, status, headers, media_type="application/json")


def _plain(value: object) -> JsonValue:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} is no JSON")
