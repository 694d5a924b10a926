"""A notebook server that costs next to nothing, so the line to it is what is measured.

The session script starts it as the module ``jupyterlab`` because the policy
of the benchmark's gate names this folder as code. It listens on the UNIX socket that the
relay leads to, and on a TCP port of its own for the direct measurements, which it writes
to ``direct.json`` in the session's folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import uvloop
from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler

SMALL = json.dumps({"started": "2024-01-01T00:00:00Z", "padding": "x" * 900}).encode()
CHUNK = b"x" * 2**18


def main() -> None:
    uvloop.run(serve(Path(os.environ["SCENEBRIDGE_PRIVATE"]), Path(os.environ["SCENEBRIDGE_WORK"])))


async def serve(private: Path, work: Path) -> None:
    """Until the session script ends it."""
    app = web.Application(middlewares=[with_token])
    app.router.add_get("/api/status", status)
    app.router.add_get("/api/kernels", kernels)
    app.router.add_get("/small", small)
    app.router.add_get("/large/{size}", large)
    app.router.add_get("/echo", echo)
    app.router.add_get("/stream", stream)
    app.router.add_get("/trickle", trickle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(private / "jupyter.sock")).start()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = next(address[1] for address in runner.addresses if isinstance(address, tuple))
    direct = {"port": port, "token": os.environ["SCENEBRIDGE_TOKEN"]}
    (work / "direct.new").write_text(json.dumps(direct))
    (work / "direct.new").rename(work / "direct.json")
    await asyncio.Event().wait()


@web.middleware
async def with_token(request: web.Request, handler: Handler) -> web.StreamResponse:
    """As the real server: every request needs the token."""
    if request.headers.get("Authorization") != f"token {os.environ['SCENEBRIDGE_TOKEN']}":
        return web.Response(status=403)
    return await handler(request)


async def status(_: web.Request) -> web.Response:
    return web.json_response({"last_activity": "2024-01-01T00:00:00.000000Z", "kernels": 0})


async def kernels(_: web.Request) -> web.Response:
    return web.json_response([])


async def small(_: web.Request) -> web.Response:
    return web.Response(body=SMALL, content_type="application/json")


async def large(request: web.Request) -> web.StreamResponse:
    left = int(request.match_info["size"])
    response = web.StreamResponse(headers={"Content-Length": str(left)})
    await response.prepare(request)
    while left:
        await response.write(CHUNK[:left])
        left -= min(left, len(CHUNK))
    return response


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
    return ws


async def stream(request: web.Request) -> web.WebSocketResponse:
    """`rate` messages of `size` bytes a second, as a kernel that prints."""
    rate, size = float(request.query["rate"]), int(request.query["size"])
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    text = "x" * size
    due = time.monotonic()
    while not ws.closed:
        await ws.send_str(text)
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    return ws


async def trickle(request: web.Request) -> web.StreamResponse:
    """Ten seconds of a download of `rate` bytes a second, in pieces of 64 KiB."""
    rate = float(request.query["rate"])
    response = web.StreamResponse()
    await response.prepare(request)
    due = time.monotonic()
    for _ in range(int(10 * rate) // 2**16):
        await response.write(CHUNK[: 2**16])
        due += 2**16 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    return response


if __name__ == "__main__":
    main()
