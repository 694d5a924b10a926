"""HTTP through the proxy: what arrives, what comes back, and what happens when a side fails."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from lib.notebook_proxy import lab_bar
from lib.notebook_proxy.upstream import Upstream
from tests.contract.small_notebook import TOKEN, Stage, stage, stalled

HTML = b"<!doctype html><html><body>lab</body></html>\n"


class Notebook:
    """A server with one of every kind of answer."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.sent = 0
        self.accepted: str | None = None
        app = web.Application(client_max_size=2**30)
        for path, handler in (
            ("/slow", self.slow),
            ("/endless", self.endless),
            ("/cookies", self.cookies),
            ("/gzip", self.gzip),
            ("/upload", self.upload),
            ("/early", self.early),
            ("/status/{code}", self.status),
            ("/lab{rest:.*}", self.html),
            ("/files/{rest:.*}", self.html),
        ):
            app.router.add_route("*", path, handler)
        app.router.add_route("*", "/{rest:.*}", self.echo)
        self.app = app

    async def echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        return web.json_response(
            {
                "method": request.method,
                "target": request.raw_path,
                "headers": [[k.lower(), v] for k, v in request.headers.items()],
                "body": body.decode("latin-1"),
            },
            headers={
                "X-Frame-Options": "DENY",
                "Content-Security-Policy": "sandbox; frame-ancestors 'self'",
                "Access-Control-Allow-Origin": "*",
                "Service-Worker-Allowed": "/",
                "Clear-Site-Data": '"*"',
                "Connection": "X-Private",
                "X-Private": "1",
            },
        )

    async def slow(self, request: web.Request) -> web.Response:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return web.Response()

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 2**18)
                self.sent += 2**18
        except (ConnectionError, asyncio.CancelledError):
            self.cancelled.set()
            raise

    async def cookies(self, request: web.Request) -> web.Response:
        response = web.Response()
        for value in (
            "_xsrf=2|abc; Path=/",
            "plain=1; Path=/; HttpOnly",
            "__Host-sb-notebook-x=1; Path=/; Secure",
            "_streamlit_user=evil; Path=/",
            "wide=1; Domain=localhost; Path=/",
            "wide2=1; path=/; DOMAIN = .example.org",
        ):
            response.headers.add("Set-Cookie", value)
        return response

    async def gzip(self, request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"z" * 9999), headers={"Content-Encoding": "gzip"})

    async def upload(self, request: web.Request) -> web.Response:
        digest, size = hashlib.sha256(), 0
        try:
            async for chunk in request.content.iter_any():
                digest.update(chunk)
                size += len(chunk)
                self.sent = size
        except (ConnectionError, asyncio.CancelledError):
            self.cancelled.set()
            raise
        return web.json_response({"sha256": digest.hexdigest(), "size": size})

    async def early(self, request: web.Request) -> web.Response:
        return web.Response(status=413, text="too large")

    async def html(self, request: web.Request) -> web.Response:
        self.accepted = request.headers.get("Accept-Encoding")
        kind = request.query.get("kind", "text/html; charset=utf-8")
        code = int(request.query.get("code", "200"))
        body, headers = HTML, {"Content-Type": kind}
        if "packed" in request.query:
            body, headers["Content-Encoding"] = gzip.compress(HTML), "gzip"
        if "chunked" not in request.query:
            return web.Response(body=body, headers=headers, status=code)
        answer = web.StreamResponse(headers=headers)
        await answer.prepare(request)
        await answer.write(body)
        return answer

    async def status(self, request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["code"]))


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
async def on(notebook: Notebook) -> AsyncIterator[Stage]:
    async with stage(notebook.app) as made:
        yield made


async def seen(on: Stage, path: str, **extra: Any) -> dict[str, Any]:
    status, body = await on.get(path, **extra)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize(
    "target",
    ["/a%2Fb/..%2f/c", "/a//b/./c", "/a/../b", "/?q=a+b&q=%20&=", "/%C3%BC/%00"],
)
async def test_target_passes_as_it_came(on: Stage, target: str) -> None:
    reader, writer = await on.raw(
        b"GET %s HTTP/1.1\r\nHost: {HOST}\r\nCookie: {COOKIE}\r\nConnection: close\r\n\r\n"
        % target.encode()
    )
    answer = await reader.read()
    writer.close()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["target"] == target


async def test_token_is_added_and_ours_is_taken_away(on: Stage) -> None:
    got = await seen(
        on,
        "/x",
        Authorization="token stolen",
        X_Forwarded_For="6.6.6.6",
        X_Forwarded_Host="evil.example",
        Forwarded="for=6.6.6.6",
        X_Real_IP="6.6.6.6",
        X_Scheme="https",
        X_Portal_User="root",
        Connection="keep-alive, X-Hop",
        X_Hop="1",
        TE="trailers",
        Cookie=f"_xsrf=keep; {on.cookie}; _streamlit_user=secret; __host-SB-other=1; last=2",
    )
    headers = got["headers"]
    named = dict(headers)
    assert [v for k, v in headers if k == "authorization"] == [f"token {TOKEN}"]
    assert named["x-forwarded-for"] == "127.0.0.1"
    assert named["x-forwarded-proto"] == "http"
    assert named["host"] == on.host
    assert named["cookie"] == "_xsrf=keep; last=2"
    assert not {"forwarded", "x-real-ip", "x-scheme", "x-portal-user", "x-hop", "te"} & set(named)
    assert "6.6.6.6" not in str(headers)


async def test_answer_keeps_its_own_headers_and_gets_ours(on: Stage) -> None:
    async with on.http.get(on.url("/x"), headers=on.headers()) as answer:
        policies = answer.headers.getall("Content-Security-Policy")
        assert policies == ["sandbox", "frame-ancestors 'self' http://localhost:8501"]
        assert answer.headers["Referrer-Policy"] == "same-origin"
        for gone in (
            "X-Frame-Options",
            "Access-Control-Allow-Origin",
            "Service-Worker-Allowed",
            "Clear-Site-Data",
            "X-Private",
        ):
            assert gone not in answer.headers
        assert len(answer.headers.getall("Date")) == 1
        assert TOKEN not in str(answer.headers)


async def test_what_the_notebook_says_of_its_origin_and_of_caches_is_replaced() -> None:
    said = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Content-Type-Options: sniff\r\n"
        b"Cross-Origin-Resource-Policy: cross-origin\r\nReferrer-Policy: unsafe-url\r\n"
        b"Cache-Control: public, max-age=60\r\nSet-Cookie: =__Host-sb-login=1\r\n\r\n{}"
    )
    async with (
        stage(answering(said)) as on,
        on.http.get(on.url("/x"), headers=on.headers()) as answer,
    ):
        for name, value in (
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "same-origin"),
            ("Cache-Control", "private, max-age=60"),
        ):
            assert answer.headers.getall(name) == [value]
        assert "Set-Cookie" not in answer.headers


async def test_cookies_of_the_notebook_stay_on_its_own_host(on: Stage) -> None:
    async with on.http.get(on.url("/cookies"), headers=on.headers()) as answer:
        names = [value.split("=")[0] for value in answer.headers.getall("Set-Cookie")]
    assert names == ["_xsrf", "plain"]


async def test_compressed_answers_are_not_touched(on: Stage) -> None:
    status, body = await on.get("/gzip")
    assert (status, gzip.decompress(body)) == (200, b"z" * 9999)


@pytest.mark.parametrize("code", [204, 304, 404, 500])
async def test_status_passes(on: Stage, code: int) -> None:
    assert (await on.get(f"/status/{code}"))[0] == code


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_methods_and_bodies_pass(on: Stage, method: str) -> None:
    async with on.http.request(
        method, on.url("/api"), headers=on.headers(), data=b"hello"
    ) as answer:
        got = await answer.json()
    assert (got["method"], got["body"]) == (method, "hello")
    assert dict(got["headers"])["content-length"] == "5"


async def test_head_has_no_body(on: Stage) -> None:
    async with on.http.head(on.url("/x"), headers=on.headers()) as answer:
        assert answer.status == 200
        assert int(answer.headers["Content-Length"]) > 0


async def test_chunked_upload_passes_whole(on: Stage) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(50):
            yield bytes([number]) * 2**16

    whole = b"".join([bytes([n]) * 2**16 for n in range(50)])
    async with on.http.put(on.url("/upload"), headers=on.headers(), data=chunks()) as answer:
        assert await answer.json() == {
            "sha256": hashlib.sha256(whole).hexdigest(),
            "size": len(whole),
        }


async def test_browser_that_leaves_cancels_the_request(on: Stage, notebook: Notebook) -> None:
    _, writer = await on.raw(b"GET /slow HTTP/1.1\r\nHost: {HOST}\r\nCookie: {COOKIE}\r\n\r\n")
    await notebook.asked.wait()
    writer.close()
    await notebook.cancelled.wait()


async def test_browser_that_leaves_during_an_upload_cancels_it(
    on: Stage, notebook: Notebook
) -> None:
    _, writer = await on.raw(
        b"PUT /upload HTTP/1.1\r\nHost: {HOST}\r\nOrigin: {ORIGIN}\r\nCookie: {COOKIE}\r\n"
        b"Content-Length: 1000000\r\n\r\n" + b"x" * 1000
    )
    assert await stalled(lambda: notebook.sent) == 1000
    writer.close()
    await notebook.cancelled.wait()


async def test_stalled_browser_makes_the_notebook_wait(on: Stage, notebook: Notebook) -> None:
    _, writer = await on.raw(b"GET /endless HTTP/1.1\r\nHost: {HOST}\r\nCookie: {COOKIE}\r\n\r\n")
    writer.transport.pause_reading()
    assert await stalled(lambda: notebook.sent) < 64 * 2**20
    writer.transport.abort()
    await notebook.cancelled.wait()


async def test_stalled_notebook_makes_an_upload_wait() -> None:
    measured, left = asyncio.Event(), asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await measured.wait()
        writer.transport.abort()
        left.set()

    async with stage(stall) as on:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 2**28:
                yield b"x" * 2**18
                sent += 2**18

        putting = asyncio.ensure_future(
            on.http.put(on.url("/x"), headers=on.headers(), data=endless())
        )
        assert await stalled(lambda: sent) < 64 * 2**20
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        measured.set()
        await left.wait()


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: x, chunked, x\r\n",
        b"Content-Length: -1\r\n",
    ],
)
async def test_ambiguous_framing_does_not_pass(on: Stage, framing: bytes) -> None:
    """Two readings of where a request ends would let one be hidden in another."""
    reader, writer = await on.raw(
        b"POST /x HTTP/1.1\r\nHost: {HOST}\r\nOrigin: {ORIGIN}\r\nCookie: {COOKIE}\r\n"
        + framing
        + b"\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
    )
    answer = await reader.read(2**16)
    writer.close()
    assert b" 400 " in answer.splitlines()[0]
    assert b"hidden" not in answer


async def test_answer_before_the_upload_ends_passes(on: Stage) -> None:
    reader, writer = await on.raw(
        b"PUT /early HTTP/1.1\r\nHost: {HOST}\r\nOrigin: {ORIGIN}\r\nCookie: {COOKIE}\r\n"
        b"Content-Length: 100000000\r\n\r\n" + b"x" * 1000
    )
    assert b" 413 " in await reader.readline()
    writer.close()


async def test_closing_a_notebook_ends_what_is_under_way(on: Stage, notebook: Notebook) -> None:
    asked = asyncio.create_task(on.get("/slow"))
    await notebook.asked.wait()
    await on.proxy.close(on.session, "Stopped by its owner.")
    status, body = await asked
    assert (status, json.loads(body)["message"]) == (503, "Stopped by its owner.")
    await notebook.cancelled.wait()
    assert (await on.get("/x"))[0] == 503


async def test_newer_upstream_takes_over(on: Stage) -> None:
    await on.proxy.open(on.session, Upstream(on.socket, on.endpoint))
    await seen(on, "/x")


async def test_notebook_that_is_gone_is_told_plainly(on: Stage) -> None:
    on.socket.unlink()
    await on.proxy.open(on.session, Upstream(on.socket, on.endpoint))
    status, body = await on.get("/x")
    assert status == 502
    assert json.loads(body)["message"] == "The notebook cannot be reached at the moment."
    async with on.http.get(on.url("/lab"), headers=on.navigation()) as answer:
        assert answer.status == 502
        page = await answer.text()
    assert "cannot be reached" in page
    assert 'http-equiv="refresh"' in page


# --- the bar in JupyterLab's page ---------------------------------------------------------


async def page_of(on: Stage, path: str, **extra: Any) -> bytes:
    """What a browser gets that asks for a page; its length is as it was said to be."""
    headers = on.navigation(**{"Accept_Encoding": "gzip", **extra})
    async with on.http.get(on.url(path), headers=headers) as answer:
        body = await answer.read()
        assert int(answer.headers.get("Content-Length", len(body))) == len(body)
        return body


@pytest.mark.parametrize("path", ["/lab", "/lab/tree/a.ipynb?reset", "/lab/tree/x?chunked"])
async def test_lab_s_page_gets_the_bar_behind_its_end(
    on: Stage, notebook: Notebook, path: str
) -> None:
    page = await page_of(on, path)
    assert page.startswith(HTML)
    assert page[len(HTML) :] == lab_bar.tail("http://localhost:8501", on.session)
    assert b'data-work="http://localhost:8501/work"' in page
    assert notebook.accepted is None, "what is compressed cannot be added to"
    page = await page_of(on, path, Sec_Fetch_Dest="iframe", Range="bytes=0-3")
    assert page.endswith(b"</script>")


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        ("/files/a.html", {}),
        ("/labyrinth", {}),
        ("/lab?kind=application/json", {}),
        ("/lab?code=404", {}),
        ("/lab", {"Sec_Fetch_Mode": "cors", "Sec_Fetch_Site": "same-origin"}),
    ],
)
async def test_nothing_else_is_added_to(on: Stage, path: str, extra: dict[str, str]) -> None:
    assert await page_of(on, path, **extra) == HTML


async def test_a_page_that_is_compressed_all_the_same_is_not_touched(on: Stage) -> None:
    assert gzip.decompress(await page_of(on, "/lab?packed")) == HTML


async def test_the_bar_says_while_the_line_to_the_cluster_is_away(
    on: Stage, tmp_path: Path
) -> None:
    async def line() -> str:
        return str((await seen(on, "/_portal/state"))["line"])

    await seen(on, "/x")
    assert await line() == ""
    kept = tmp_path / "kept"
    on.socket.rename(kept)
    await on.proxy.open(on.session, Upstream(on.socket, on.endpoint))
    assert (await on.get("/x"))[0] == 502
    assert await line() == lab_bar.LINE_AWAY
    kept.rename(on.socket)
    assert await line() == "", "it is looked for until it is there again"
    assert (await on.get("/status/502"))[0] == 502
    assert await line() == "", "an answer of the notebook's is an answer"
    await on.proxy.close(on.session, "It was stopped.")
    assert await line() == "It was stopped."


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.close()


async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"SSH-2.0-not-http\r\n\r\n")
    writer.close()


async def huge_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n")
    writer.close()


async def cut_short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
    writer.close()


@pytest.mark.parametrize("server", [close_at_once, rubbish, huge_header])
async def test_broken_notebook_is_bad_gateway(server: Any) -> None:
    async with stage(server) as on:
        status, body = await on.get("/x")
        assert status == 502
        assert json.loads(body)["message"].startswith("The notebook")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 000 None",
        b"HTTP/1.1 099 None",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket",
        b"HTTP/1.1 101 Switching Protocols",
        b"HTTP/1.1 600 More",
        b"HTTP/1.1 999 More",
        b"HTTP/1.1 9999 More",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 -200 OK",
        b"HTTP/2 200 OK",
        b"HTTP/1.1 200 OK\r\nA b: x",
        b"HTTP/1.1 200 OK\r\nA\x00b: x",
        b"HTTP/1.1 200 OK\r\n: x",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\nX: a\x00b",
        b"HTTP/1.1 200 OK\r\nX: a\x0bb",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: x",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nLocation: /a\r\nLocation: /b",
        b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(b"X-%d: " % n + b"x" * 1000 for n in range(70)),
    ],
    ids=lambda head: str(head)[:60],
)
async def test_answer_that_is_none_is_bad_gateway(
    head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(answering(head + b"\r\n\r\n{}")) as on:
        status, body = await on.get("/x")
        assert (status, json.loads(body)["message"]) == (
            502,
            "The notebook gave an answer that is not valid.",
        )
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("head", "status", "body"),
    [
        (b"HTTP/1.1 299 \r\nContent-Length: 2", 299, b"{}"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2", 304, b""),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 599 Odd\r\nContent-Length: 2", 599, b"{}"),
        (b"HTTP/1.0 200 OK", 200, b"{}"),
    ],
)
async def test_answer_that_is_odd_and_clear_passes(
    head: bytes, status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(answering(head + b"\r\n\r\n" + body)) as on:
        assert await on.get("/x") == (status, body)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def answering(answer: bytes) -> Any:
    """A server that says that to whatever it is asked, and ends."""

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    return server


async def test_answer_cut_short_is_not_passed_as_whole() -> None:
    async with stage(cut_short) as on:
        reader, writer = await on.raw(b"GET / HTTP/1.1\r\nHost: {HOST}\r\nCookie: {COOKIE}\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert b"content-length: 1000" in answer.lower()
        assert answer.endswith(b"only this")


async def test_many_requests_at_once(on: Stage) -> None:
    found = await asyncio.gather(*(seen(on, f"/n/{n}") for n in range(100)))
    assert [got["target"] for got in found] == [f"/n/{n}" for n in range(100)]
