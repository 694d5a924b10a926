"""The audit log as JSON lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from lib.portal import facade
from lib.web.api.queries import audit_query

if TYPE_CHECKING:
    from starlette.requests import Request


async def audit(request: Request) -> Response:
    query, user = audit_query(request), request.state.user
    lines = await run_in_threadpool(facade.current().administration.audit_export, user, query)
    headers = {
        "Content-Disposition": 'attachment; filename="audit.jsonl"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(lines, media_type="application/jsonl", headers=headers)
