"""Signing in at an OpenID Connect provider: authorization code with PKCE, by Authlib.

Numbered as in OpenID Connect Core 1.0, section 3.1:

1. `begin` reads the provider's metadata (Discovery 1.0) and sends the browser there with
   state, nonce and code challenge, which a signed cookie of this browser remembers;
2. the provider sends the browser back to an address of its own for each provider, so that
   no provider can answer for another (RFC 9700, section 4.4);
3. `finish` changes the code for tokens and checks the ID token: signature by the
   provider's keys, issuer, audience, times, nonce, subject.

Whatever is not as it must be ends the sign-in with one sentence. What providers write is
never shown: anybody can send a browser here with any text.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

import httpx2 as httpx
from authlib.integrations.base_client.errors import MismatchingStateError, OAuthError
from authlib.integrations.starlette_client import StarletteIntegration, StarletteOAuth2App
from cachetools import TTLCache
from joserfc.errors import (
    BadSignatureError,
    ClaimError,
    ExpiredTokenError,
    InvalidKeyIdError,
    JoseError,
    MissingClaimError,
)

from lib.config.settings.checks import is_loopback_name
from lib.errors import NotFound, ProtocolError, Refused, SceneBridgeError, Unavailable
from lib.model import JsonObject, JsonValue, json_list
from lib.model.bounds import Json, outside, wrong_text

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from lib.config.settings import Provider

log = logging.getLogger(__name__)

#: A provider that has not answered after this time is too slow for who waits.
LIMIT_S = 10.0
_METADATA_LIFETIME_S = 3600.0
_LARGEST_ANSWER = 2**20
#: Signatures that only who holds the private key can make.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
               "EdDSA")  # fmt: skip
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_NAMES = ("name", "preferred_username", "email")
_AGAIN = "Begin again."
#: One claim: a name, an address, a list of groups.
_CLAIM = Json(depth=4, values=5000, text=500)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a provider vouches for."""

    provider: str
    issuer: str
    subject: str
    name: str
    claims: JsonObject = field(repr=False)


class _HttpOptions(TypedDict):
    """How an HTTP client speaks to a provider: `httpx.AsyncClient`'s own arguments."""

    timeout: float
    trust_env: bool
    verify: ssl.SSLContext
    follow_redirects: bool
    event_hooks: Mapping[str, list[Callable[[httpx.Response], Awaitable[None]]]]


class SignInProviders:
    """All providers of the settings. Belongs to one event loop."""

    def __init__(
        self,
        providers: Iterable[Provider],
        secret_of: Callable[[Provider], str],
        *,
        needed: Callable[[str], frozenset[str]] = lambda _: frozenset(),
        limit_s: float = LIMIT_S,
    ) -> None:
        """
        Args:
            secret_of: the client secret of a provider; read at each sign-in.
            needed: names of the claims that the settings read, by id of the provider.
        """
        self._providers = {provider.id: provider for provider in providers}
        self._secret_of = secret_of
        self._needed = needed
        self._limit_s = limit_s
        #: Authlib's client of each provider, until its metadata is too old.
        self._clients: TTLCache[str, StarletteOAuth2App] = TTLCache(
            len(self._providers), _METADATA_LIFETIME_S
        )
        self._clock_ahead_s: dict[str, float] = {}

    @property
    def titles(self) -> dict[str, str]:
        """Title of each provider by id, in the order of the settings."""
        return {provider.id: provider.title for provider in self._providers.values()}

    async def begin(self, request: Request, provider_id: str, callback: str) -> Response:
        """Send the browser to the provider.

        Args:
            request: with a session that is kept until the browser is back.
            callback: where the provider sends it back to.
        Raises:
            NotFound, Unavailable, ProtocolError: why not.
        """
        provider = self._provider(provider_id)
        async with self._sentences(provider):
            app = await self._client(provider)
            response: Response = await app.authorize_redirect(request, callback)
            return response

    async def finish(self, request: Request, provider_id: str) -> Identity:
        """Who has come back.

        Raises:
            Refused: it was not this browser that began, or the person did not agree.
            NotFound, Unavailable, ProtocolError: as of `begin`.
        """
        provider = self._provider(provider_id)
        async with self._sentences(provider):
            app = await self._client(provider)
            token = await app.authorize_access_token(  # type: ignore[no-untyped-call]
                request,
                leeway=provider.clock_skew_s,
                claims_options={
                    "iss": {"essential": True, "value": provider.issuer},
                    "aud": {"essential": True, "value": provider.client_id},
                    "sub": {"essential": True},
                },
            )
            claims: JsonObject = dict(token.get("userinfo") or {})
            subject = claims.get("sub")
            if not isinstance(subject, str) or not subject or wrong_text(subject, 255):
                raise MissingClaimError("sub")
            if not self._needed(provider_id) <= claims.keys() and "name" not in claims:
                claims = await self._with_user_info(app, token, claims)
        self._check_bounds(provider, claims)
        said = (claims.get(name) for name in _NAMES)
        name = next((text for text in said if isinstance(text, str)), subject)
        return Identity(
            provider_id, provider.issuer, subject, " ".join(name.split())[:100] or subject, claims
        )

    def _check_bounds(self, provider: Provider, claims: JsonObject) -> None:
        """Of the claims that the portal reads; no others are kept."""
        read = {*_NAMES, "email_verified", *self._needed(provider.id)}
        for claim in sorted(read & claims.keys()):
            if problem := outside(claims[claim], _CLAIM, claim):
                raise ProtocolError(
                    f"What {provider.title} says of you is out of bounds: {problem}. "
                    "Tell the administrator of this portal."
                )

    async def check(self, provider_id: str) -> str:
        """Whether the provider could be used now: what was found, for an administrator.

        Raises:
            Unavailable, ProtocolError: why not.
        """
        provider = self._provider(provider_id)
        async with self._sentences(provider):
            app = await self._client(provider)
            keys = await app.fetch_jwk_set(force=True)
            count = len(keys["keys"])
            ahead = self._clock_ahead_s.get(provider_id, 0.0)
            if abs(ahead) > provider.clock_skew_s:
                raise ProtocolError(_clocks(provider, ahead))
            return f"{provider.issuer} answers, {count} keys, clocks {abs(ahead):.0f} s apart"

    # --- inside -----------------------------------------------------------------

    def _provider(self, provider_id: str) -> Provider:
        provider = self._providers.get(provider_id)
        if provider is None:
            raise NotFound("This portal has no such way to sign in. Choose one that it has.")
        return provider

    async def _client(self, provider: Provider) -> StarletteOAuth2App:
        known = self._clients.get(provider.id)
        if known is not None:
            return known
        secret = self._secret_of(provider)
        http = self._http(provider)
        metadata = await self._metadata(provider, http)
        methods = metadata.get("token_endpoint_auth_methods_supported")
        by_post = isinstance(methods, list) and "client_secret_basic" not in methods
        # Not the provider's whole metadata: Authlib takes it for arguments of its client.
        kept = {name: _endpoint(metadata, name) for name in _ENDPOINTS}
        if isinstance(metadata.get("userinfo_endpoint"), str):
            kept["userinfo_endpoint"] = _endpoint(metadata, "userinfo_endpoint")
        offered = json_list(metadata.get("id_token_signing_alg_values_supported") or ["RS256"])
        app = StarletteOAuth2App(
            StarletteIntegration(provider.id),
            name=provider.id,
            client_id=provider.client_id,
            client_secret=secret,
            client_kwargs={
                "scope": provider.scope,
                "code_challenge_method": "S256",
                "token_endpoint_auth_method": (
                    "client_secret_post" if by_post else "client_secret_basic"
                ),
                **http,
            },
            issuer=provider.issuer,
            id_token_signing_alg_values_supported=[a for a in _ALGORITHMS if a in offered],
            **kept,
        )
        self._clients[provider.id] = app
        return app

    async def _metadata(self, provider: Provider, http: _HttpOptions) -> JsonObject:
        address = provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
        async with httpx.AsyncClient(**http) as client:
            answer = await client.get(address)
            answer.raise_for_status()
            metadata: JsonValue = answer.json()
        if not isinstance(metadata, dict):
            raise TypeError("metadata")
        if metadata.get("issuer") != provider.issuer:
            log.warning(
                "%s: the metadata's issuer is %.200r, the settings say %r",
                provider.id, metadata.get("issuer"), provider.issuer,
            )  # fmt: skip
            raise ProtocolError(
                f"{provider.title} does not answer as the issuer that the portal's settings "
                "name, so it is not trusted. Tell the administrator of this portal."
            )
        for name in _ENDPOINTS:
            _endpoint(metadata, name)
        return metadata

    def _http(self, provider: Provider) -> _HttpOptions:
        """For all connections to it until its metadata is too old; reads the authorities."""

        async def look(response: httpx.Response) -> None:
            if int(response.headers.get("content-length") or 0) > _LARGEST_ANSWER:
                raise ValueError("too large an answer")
            said = response.headers.get("date")
            if said:
                ahead = parsedate_to_datetime(said).timestamp() - time.time()
                self._clock_ahead_s[provider.id] = ahead

        return {
            "timeout": self._limit_s,
            "trust_env": False,
            "verify": httpx.create_ssl_context(trust_env=False),
            "follow_redirects": False,
            "event_hooks": {"response": [look]},
        }

    async def _with_user_info(
        self, app: StarletteOAuth2App, token: Mapping[str, object], claims: JsonObject
    ) -> JsonObject:
        """Claims that the ID token left out (Core 1.0, section 5.3.2)."""
        if "userinfo_endpoint" not in app.server_metadata:
            return claims
        # Through JSON, which it came as: Authlib's types do not say so.
        more: JsonObject = json.loads(json.dumps(await app.userinfo(token=token)))
        if more.get("sub") != claims["sub"]:
            raise ProtocolError(
                "The provider spoke of two different people, so it is not trusted. "
                "Tell the administrator of this portal."
            )
        return {**more, **claims}

    @asynccontextmanager
    async def _sentences(self, provider: Provider) -> AsyncIterator[None]:
        """Turn whatever goes wrong with a provider into one sentence; forget its metadata."""
        try:
            async with asyncio.timeout(self._limit_s):
                yield
            return
        except SceneBridgeError:
            self._clients.pop(provider.id, None)
            raise
        except (
            TimeoutError, httpx.HTTPError, httpx.InvalidURL, OAuthError, JoseError,
            ValueError, TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError,
        ) as exc:  # fmt: skip
            self._clients.pop(provider.id, None)
            log.warning("%s: sign-in failed: %s", provider.id, type(exc).__name__)
            raise self._sentence(provider, exc) from exc

    def _sentence(self, provider: Provider, exc: Exception) -> SceneBridgeError:
        title = provider.title
        tell = "Tell the administrator of this portal."
        match exc:
            case TimeoutError() | httpx.TimeoutException():
                return Unavailable(f"{title} takes too long to answer. Try again in a few minutes.")
            case httpx.HTTPStatusError():
                status = exc.response.status_code
                return Unavailable(f"{title} has a fault ({status}). Try again in a few minutes.")
            case httpx.HTTPError():
                return Unavailable(f"{title} cannot be reached. Try again in a few minutes.")
            case MismatchingStateError():
                return Refused(
                    f"This way back from {title} was used already, is too old, or was begun in "
                    f"another browser. {_AGAIN}"
                )
            case OAuthError():
                return _oauth(provider, str(exc.error))
            case ExpiredTokenError():
                return ProtocolError(self._times(provider, "has expired already"))
            case MissingClaimError():
                return ProtocolError(
                    f"{title} did not say what the portal must know ({exc.claim:.40}). {tell}"
                )
            case ClaimError() if exc.claim in ("iat", "nbf"):
                return ProtocolError(self._times(provider, "is from the future"))
            case ClaimError():
                meant = {"iss": "another issuer", "aud": "another portal", "nonce": "another time"}
                what = meant.get(exc.claim, f"something else ({exc.claim:.40})")
                return ProtocolError(
                    f"{title} answered for {what}, so its answer is not trusted. {tell}"
                )
            case BadSignatureError() | InvalidKeyIdError():
                return ProtocolError(
                    f"The answer of {title} is not signed by {title}, so it is not trusted. {tell}"
                )
        return ProtocolError(f"{title} gave an answer that the portal cannot read. {tell}")

    def _times(self, provider: Provider, what: str) -> str:
        ahead = self._clock_ahead_s.get(provider.id, 0.0)
        if abs(ahead) > provider.clock_skew_s:
            return _clocks(provider, ahead)
        return (
            f"The answer of {provider.title} {what}. {_AGAIN} If it happens again, the clock of "
            "the provider or of the portal is wrong: tell the administrator of this portal."
        )


def _clocks(provider: Provider, ahead_s: float) -> str:
    minutes = abs(ahead_s) / 60
    apart = f"{minutes:.0f} minutes" if minutes >= 2 else f"{abs(ahead_s):.0f} seconds"
    return (
        f"The clocks of {provider.title} and of this portal are {apart} apart, so nobody can "
        "sign in. Tell the administrator of this portal."
    )


def _oauth(provider: Provider, code: str) -> SceneBridgeError:
    title = provider.title
    if code == "access_denied":
        return Refused(f"{title} did not let you in, or you did not agree. {_AGAIN}")
    if code in ("invalid_client", "unauthorized_client"):
        return ProtocolError(
            f"{title} does not know this portal: its client id or secret is wrong. "
            "Tell the administrator of this portal."
        )
    if code in ("server_error", "temporarily_unavailable"):
        return Unavailable(f"{title} has a fault. Try again in a few minutes.")
    if code in ("invalid_grant", "login_required", "interaction_required", "consent_required"):
        return Refused(f"What {title} sent back was used already or is too old. {_AGAIN}")
    return ProtocolError(
        f"{title} refused this portal's request. Tell the administrator of this portal."
    )


def _endpoint(metadata: JsonObject, name: str) -> str:
    """An https address, or one of this computer."""
    address = metadata[name]
    if not isinstance(address, str):
        raise TypeError(name)
    parts = urlsplit(address)
    if parts.scheme != "https" and not (
        parts.scheme == "http" and is_loopback_name(parts.hostname or "")
    ):
        raise ValueError(name)
    return address
