"""An OpenID Connect provider that can be told to lie, be slow, or break; a real server."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import functools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route


@functools.cache
def _key(number: int) -> RSAKey:
    """All have the same name."""
    return RSAKey.generate_key(2048, {"kid": "one"}, private=True)


class LyingProvider:
    """Vouches for "kato" at once, without asking; each attribute is one way to be wrong."""

    def __init__(self) -> None:
        self.issuer = ""
        self.be_honest()

    def be_honest(self) -> None:
        """As it was made: nothing is wrong, and nothing is remembered."""
        self.key = _key(0)
        self.signing_key: Any = self.key
        self.algorithm = "RS256"
        self.metadata: dict[str, Any] = {}
        self.claims: dict[str, Any] = {}
        self.without: set[str] = set()
        self.token_error = ""
        self.status: dict[str, int] = {}
        #: Questions that get no answer for as long as the asker waits.
        self.hang: set[str] = set()
        self.body: dict[str, bytes] = {}
        self.clock_ahead_s = 0.0
        self.user_info: dict[str, Any] = {}
        self.asked: list[str] = []
        self._nonces: dict[str, str] = {}
        self._clients: dict[str, str] = {}

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._metadata),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/keys", self._keys),
                Route("/userinfo", self._user_info),
            ]
        )

    async def _metadata(self, request: Request) -> Response:
        return await self._answer(
            request,
            "metadata",
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
                **self.metadata,
            },
        )

    async def _authorize(self, request: Request) -> Response:
        asked = request.query_params
        code = f"code-{time.time_ns()}"
        self._nonces[code] = asked.get("nonce", "")
        self._clients[code] = asked["client_id"]
        assert asked["code_challenge_method"] == "S256"
        return RedirectResponse(f"{asked['redirect_uri']}?code={code}&state={asked['state']}", 302)

    async def _token(self, request: Request) -> Response:
        self.asked.append("token")
        async with request.form() as form:
            code = str(form.get("code"))
            assert form.get("code_verifier")
        if self.token_error:
            return JSONResponse({"error": self.token_error}, 400)
        if code not in self._nonces:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time() + self.clock_ahead_s)
        claims = {
            "iss": self.issuer, "sub": "kato", "aud": self._clients.pop(code),
            "nonce": self._nonces.pop(code), "iat": now, "exp": now + 300, "name": "Kato",
            **self.claims,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if name not in self.without}
        return await self._answer(
            request,
            "token",
            {
                "access_token": "access",
                "token_type": "Bearer",
                "expires_in": 300,
                "id_token": self._signed(claims),
            },
        )

    def _signed(self, claims: dict[str, Any]) -> str:
        if self.algorithm == "none":
            parts = [json.dumps({"alg": "none"}).encode(), json.dumps(claims).encode()]
            return ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts) + "."
        header = {"alg": self.algorithm, "kid": "one"}
        return jwt.encode(header, claims, self.signing_key, algorithms=[self.algorithm])

    async def _keys(self, request: Request) -> Response:
        return await self._answer(request, "keys", KeySet([self.key]).as_dict(private=False))

    async def _user_info(self, request: Request) -> Response:
        return await self._answer(request, "userinfo", {"sub": "kato", **self.user_info})

    async def _answer(self, request: Request, name: str, value: Any) -> Response:
        self.asked.append(name)
        if name in self.hang:
            while (await request.receive())["type"] != "http.disconnect":
                pass
        body = self.body.get(name) or json.dumps(value).encode()
        date = email.utils.formatdate(time.time() + self.clock_ahead_s, usegmt=True)
        return Response(
            body, self.status.get(name, 200), {"Date": date}, media_type="application/json"
        )

    def sign_with_another_key(self) -> None:
        """A key with the same name that nobody published."""
        self.signing_key = _key(1)

    def sign_with_the_client_secret(self, secret: str) -> None:
        self.algorithm = "HS256"
        self.signing_key = OctKey.import_key(secret)


@contextlib.contextmanager
def lying_provider() -> Iterator[LyingProvider]:
    """It serves until the end of the block."""
    it = LyingProvider()
    config = uvicorn.Config(
        it.app(), port=0, log_config=None, access_log=False, lifespan="off", date_header=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 300
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    it.issuer = f"http://127.0.0.1:{port}"
    try:
        yield it
    finally:
        server.should_exit = True
        thread.join(300)
