"""Requests as raw bytes: what a server of ours takes, and what it refuses."""

from __future__ import annotations

HOST = b"Host: localhost\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def get(*headers: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: localhost", *headers, b"", b""])


def post(*headers: bytes, body: bytes = b"") -> bytes:
    return get(*headers, line=b"POST / HTTP/1.1") + body


TAKEN = {
    "plain": get(),
    "a length": post(b"Content-Length: 3", body=b"abc"),
    "chunks": CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    "tab before the coding": post(b"Transfer-Encoding:\tchunked", body=b"0\r\n\r\n"),
    "capitals": post(b"transfer-encoding: Chunked", body=b"0\r\n\r\n"),
    "an extension of a chunk": CHUNKED + b"3;a=b\r\nabc\r\n0\r\n\r\n",
    "a body with GET": get(b"Content-Length: 3") + b"abc",
    "the whole address": get(line=b"GET http://localhost/ HTTP/1.1"),
    "HTTP/1.0 with a host": get(line=b"GET / HTTP/1.0"),
    "another port": b"GET / HTTP/1.1\r\nHost: localhost:8501\r\n\r\n",
    "an IPv6 host": b"GET / HTTP/1.1\r\nHost: [::1]:8501\r\n\r\n",
    "a long address": get(line=b"GET /" + b"a" * 15000 + b" HTTP/1.1"),
    "many headers": get(*[b"X-A: " + b"a" * 1000] * 60),
    "an unknown upgrade": get(b"Connection: Upgrade", b"Upgrade: h2c"),
}

REFUSED = {
    "length and chunks": post(
        b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"
    ),
    "chunks and length": post(
        b"Transfer-Encoding: chunked", b"Content-Length: 3", body=b"3\r\nabc\r\n0\r\n\r\n"
    ),
    "two lengths": post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd"),
    "the same length twice": post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"),
    "a list of lengths": post(b"Content-Length: 3, 3", body=b"abc"),
    "a signed length": post(b"Content-Length: +3", body=b"abc"),
    "a hexadecimal length": post(b"Content-Length: 0x3", body=b"abc"),
    "an empty length": post(b"Content-Length:"),
    "a length too large": post(b"Content-Length: 99999999999999999999", body=b"abc"),
    "a length with an underscore": post(b"Content_Length: 3", body=b"abc"),
    **{
        f"coding {number}": post(header, body=b"3\r\nabc\r\n0\r\n\r\n")
        for number, header in enumerate(
            [
                b"Transfer-Encoding: xchunked",
                b"Transfer-Encoding : chunked",
                b"Transfer-Encoding\t: chunked",
                b"Transfer-Encoding: \x0bchunked",
                b" Transfer-Encoding: chunked",
                b"Transfer-Encoding: chunked, identity",
                b"Transfer-Encoding: identity, chunked",
                b"Transfer-Encoding: gzip, chunked",
                b"Transfer-Encoding: ,chunked",
                b"Transfer-Encoding: chunked, chunked",
                b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
                b"Transfer-Encoding: identity",
                b'Transfer-Encoding: "chunked"',
                b"Transfer-Encoding:",
                b"Transfer_Encoding: chunked",
                b"X: y\r\n\tTransfer-Encoding: chunked",
            ]
        )
    },
    "chunks in HTTP/1.0": get(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0")
    + b"0\r\n\r\n",
    "a folded line": get(b"X-A: 1\r\n 2"),
    "a line folded by a tab": get(b"X-A: 1\r\n\t2"),
    "a folded first line": b"GET / HTTP/1.1\r\n X: y\r\n" + HOST + b"\r\n",
    "a bare LF": get(b"X-A: 1\nX-B: 2"),
    "LF throughout": get().replace(b"\r\n", b"\n"),
    "LF at the end": b"GET / HTTP/1.1\r\n" + HOST + b"\n",
    "a bare CR": get(b"X-A: 1\rX-B: 2"),
    "CR CR LF": get(b"X-A: 1\r"),
    "NUL in a header": get(b"X-A: a\0b"),
    "NUL in a name": get(b"X\0A: b"),
    "NUL in the address": get(line=b"GET /a\0b HTTP/1.1"),
    "a space in a name": get(b"X A: 1"),
    "no colon": get(b"X-A"),
    "another host in the address": get(line=b"GET http://elsewhere/ HTTP/1.1"),
    "a user in the address": get(line=b"GET http://me@localhost/ HTTP/1.1"),
    "another scheme": get(line=b"GET ftp://localhost/ HTTP/1.1"),
    "a star": get(line=b"OPTIONS * HTTP/1.1"),
    "a fragment": get(line=b"GET /#a HTTP/1.1"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "an empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "two hosts": get(b"Host: localhost"),
    "two hosts in one": b"GET / HTTP/1.1\r\nHost: localhost, elsewhere\r\n\r\n",
    "a path in the host": b"GET / HTTP/1.1\r\nHost: localhost/a\r\n\r\n",
    "a user in the host": b"GET / HTTP/1.1\r\nHost: me@localhost\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.0 without a host": b"GET / HTTP/1.0\r\n\r\n",
    "HTTP/2": get(line=b"GET / HTTP/2.0"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TRACE": get(line=b"TRACE / HTTP/1.1"),
    "CONNECT": get(line=b"CONNECT localhost:80 HTTP/1.1"),
    "CONNECT with a path": get(line=b"CONNECT / HTTP/1.1"),
    "a WebSocket with a body": WEBSOCKET + b"Content-Length: 3\r\n\r\nabc",
    "a WebSocket by POST": WEBSOCKET.replace(b"GET", b"POST") + b"\r\n",
    "frames before the handshake's answer": WEBSOCKET + b"\r\n\x81\x00",
}

#: These are found out after the request was handed on; its body then breaks off.
REFUSED_LATER = {
    "a signed chunk": CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "a chunk with 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk too large": CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "a space before the size": CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n",
    "a space after the size": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "LF after the size": CHUNKED + b"3\nabc\n0\n\n",
    "LF after the chunk": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "LF in an extension": CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than said": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "a trailer": CHUNKED + b"3\r\nabc\r\n0\r\nCookie: planted\r\n\r\n",
}
