"""The registry of sign-ins and access tokens: what counts, for how long, and who ends it.

A sign-in ends by its age, by idle time, by its user, by an administrator, when its user
is blocked, and when the settings no longer let them come; each of them is noticed at the
next question. Secrets are random, leave this module once, and are stored as SHA-256 only.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from cachetools import TTLCache

from lib.auth.groups import OWNER, Membership
from lib.errors import InvalidInput, NotFound, Refused, SignInEnded
from lib.model import JsonObject, TokenScope, User, UserId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lib.model import AccessToken, SignIn
    from lib.store import Store
    from lib.store.people import LivingLogin

#: `__Host-`: for this host alone, over an encrypted connection (or to localhost), so that
#: no other host can plant one.
COOKIE = "__Host-sb-login"
#: Where the authentication middleware writes the network address of who asks, for pages.
CLIENT_HEADER = "X-SceneBridge-Client"
#: Where it writes the id of the sign-in. Streamlit keeps a page's state for who comes back
#: with the page's id and the same value here (`.streamlit/config.toml`, trustedUserHeaders).
LOGIN_HEADER = "X-SceneBridge-Login"
LINK_LIFETIME_S = 30 * 60
LOGIN_LIFETIME_S = 30 * 24 * 3600.0
TOKEN_LIFETIME_S = 90 * 24 * 3600.0
LONGEST_TOKEN_S = 366 * 24 * 3600.0
TOKEN_PREFIX = "sbt_"  # noqa: S105 - a mark for secret scanners, not a secret
MOST_TOKENS = 50
_TOUCH_EVERY_S = 60.0
#: Lines that people we do not know may add to the audit log, whose lines stay for ever.
_STRANGERS_A_MINUTE = 30
#: So long an answer about a sign-in counts without asking the store again; one that ends in
#: this process ends at once. A page asks dozens of times while it is drawn, and each question
#: to the store hands the interpreter to another thread.
_REMEMBER_S = 0.25
_MOST_REMEMBERED = 10_000
_ENDED = "Your sign-in has ended. Sign in again; nothing was changed."


@dataclass(frozen=True, slots=True)
class Login:
    """A browser that signed in. `id` is no secret."""

    id: str
    user: User


class Auth:
    """Safe to call from any thread and from several processes on one store."""

    def __init__(
        self,
        store: Store,
        membership: Membership | None = None,
        *,
        idle_s: float | None = None,
        sign_in_s: float = LOGIN_LIFETIME_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            idle_s: a sign-in that nobody uses ends after so long; None: never.
            sign_in_s: the longest life of a sign-in.
            clock: by which what is remembered here is forgotten, seconds.
        """
        self._people = store.people
        self._audit = store.audit
        self.membership = membership or Membership()
        self.idle_s = idle_s
        self.sign_in_s = sign_in_s
        self._clock = clock
        self._lock = threading.Lock()  # of the three that follow
        self._touched: TTLCache[str, None] = TTLCache(_MOST_REMEMBERED, _TOUCH_EVERY_S, clock)
        self._remembered: TTLCache[str, Login] = TTLCache(_MOST_REMEMBERED, _REMEMBER_S, clock)
        self._strangers: list[float] = []
        self._on_end: list[Callable[[frozenset[str]], None]] = []
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._people.ensure_user(OWNER)

    # --- signing in -----------------------------------------------------------

    def new_sign_in_link(self, origin: str, *, via: str = "") -> str:
        """An address that signs one browser in as the owner, once, within half an hour."""
        key = secrets.token_urlsafe(32)
        self._people.add_link(digest(key), OWNER.id, time.time() + LINK_LIFETIME_S)
        self._audit.write(OWNER.id, "link-made", "", via=via)
        return f"{origin}/signin?key={key}"

    def sign_in(self, key: str, client: str = "", browser: str = "") -> str:
        """Spend a link's key; the login cookie's value.

        Raises:
            Refused: the link is unknown, was used already or is too old.
        """
        user_id = self._people.use_link(digest(key))
        if user_id is None:
            self._note_stranger("sign-in", "", "", client)
            raise Refused(
                "This sign-in link was used already or is too old. "
                "Get a new one with: python admin.py link"
            )
        return self._new_login(user_id, "", client, browser)

    def admit(
        self,
        provider: str,
        subject: str,
        *,
        name: str,
        claims: JsonObject,
        issuer: str,
        client: str = "",
        browser: str = "",
    ) -> str:
        """Sign in whom a provider vouches for; the login cookie's value.

        The same subject of the same issuer is the same person; an e-mail address is not.

        Raises:
            Refused: they may not come, and why.
        """
        user_id = user_id_of(issuer, subject)
        kept = self.membership.kept_claims(provider, claims)
        account = self._people.came(
            user_id, name=name, provider=provider, subject=subject, claims=kept
        )
        if not self.membership.may_come(account):
            why = "blocked" if account.blocked else "not allowed by the settings"
            self._audit.write(user_id, "sign-in", "", result="refused", detail=why, client=client)
            raise Refused(
                "Your access to this portal was withdrawn. Ask its administrator."
                if account.blocked
                else "Your institute knows you, but you are not among those who may use this "
                "portal. Ask its administrator."
            )
        return self._new_login(user_id, provider, client, browser)

    def _new_login(self, user_id: UserId, provider: str, client: str, browser: str) -> str:
        secret = secrets.token_urlsafe(32)
        login_id = secrets.token_hex(8)
        self._people.add_login(
            login_id,
            digest(secret),
            user_id,
            time.time() + self.sign_in_s,
            provider=provider,
            client=client,
            browser=browser,
        )
        self._audit.write(
            user_id, "sign-in", login_id, detail=provider, client=client, via=f"login:{login_id}"
        )
        return secret

    # --- who is asking ----------------------------------------------------------

    def login_of_secret(self, secret: str, client: str = "") -> Login | None:
        """The living login whose cookie value this is."""
        if not secret:
            return None
        return self._login(self._people.login_by_hash(digest(secret), idle_s=self.idle_s), client)

    def login_of_cookies(self, cookies: Mapping[str, str], client: str = "") -> Login | None:
        return self.login_of_secret(cookies.get(COOKIE, ""), client)

    def login_of_header(self, cookie_header: str, client: str = "") -> Login | None:
        """From a raw Cookie header; two cookies of our name are refused."""
        return self.login_of_secret(secret_in(cookie_header), client)

    def login(self, login_id: str) -> Login | None:
        """The login with this id, while it lives."""
        with self._lock:
            known = self._remembered.get(login_id)
        if known is not None and login_id not in self._ended:
            return known
        return self._login(self._people.login_by_id(login_id, idle_s=self.idle_s), "")

    def _login(self, found: LivingLogin | None, client: str) -> Login | None:
        if found is None or found.id in self._ended:
            return None
        if not self.membership.may_come(found.account):
            return None
        user = self.membership.user(found.account, via=f"login:{found.id}", client=client)
        login = Login(found.id, user)
        with self._lock:
            self._remembered[found.id] = login
        return login

    def user_of_token(self, token: str, client: str = "") -> User | None:
        """Whose access token this is, with its scopes, while it counts."""
        if not token.startswith(TOKEN_PREFIX):
            return None
        found = self._people.token_by_hash(digest(token))
        if found is None or not self.membership.may_come(found.account):
            return None
        if self._due(f"token:{found.id}"):
            self._people.token_used(found.id)
        return self.membership.user(
            found.account, scopes=found.scopes, via=f"token:{found.id}", client=client
        )

    def again(self, user: User) -> User:
        """Who speaks, as it is at this moment: groups, roles, and whether they still may.

        Raises:
            SignInEnded: the sign-in or token has ended since.
        """
        kind, _, ident = user.via.partition(":")
        if kind == "login":
            login = self.login(ident)
            if login is not None and login.user.id == user.id:
                return replace(login.user, client=user.client)
        elif kind == "token":
            token = self._people.token_by_id(ident)
            if (
                token is not None
                and token.account.id == user.id
                and self.membership.may_come(token.account)
            ):
                return self.membership.user(
                    token.account, scopes=token.scopes, via=user.via, client=user.client
                )
        elif not user.via:  # our own code on this computer speaks in their name
            return user
        raise SignInEnded(_ENDED)

    def groups_of(self, user_id: UserId) -> frozenset[str]:
        """The groups of anybody, at this moment; none of whom is not known."""
        try:
            return self.membership.user(self._people.account(user_id)).groups
        except NotFound:
            return frozenset()

    def name_of(self, user_id: UserId) -> str:
        """What anybody is called; the id of whom is not known."""
        try:
            return self._people.account(user_id).name
        except NotFound:
            return str(user_id)

    def living(self, login_ids: Iterable[str]) -> frozenset[str]:
        """Those of these logins that still count. One query."""
        return self._people.living(login_ids, idle_s=self.idle_s)

    def log_refusal(self, what: str, why: str, client: str) -> None:
        """Write down that nobody we know tried something; not all of a flood."""
        self._note_stranger("stranger", what, why, client)

    def _note_stranger(self, action: str, what: str, why: str, client: str) -> None:
        now = self._clock()
        with self._lock:
            self._strangers = [moment for moment in self._strangers if moment > now - 60]
            if len(self._strangers) >= _STRANGERS_A_MINUTE:
                return
            self._strangers.append(now)
        self._audit.write("", action, what, result="refused", detail=why, client=client)

    def touch(self, login_id: str) -> None:
        """A person acted under this login: its idle time starts again. Cheap."""
        if self._due(f"login:{login_id}"):
            self._people.login_seen(login_id)

    def _due(self, via: str) -> bool:
        with self._lock:
            if via in self._touched:
                return False
            self._touched[via] = None
            return True

    # --- ending -------------------------------------------------------------------

    def on_end(self, tell: Callable[[frozenset[str]], None]) -> None:
        """`tell` gets the ids of logins that are ended in this process, in any thread."""
        self._on_end.append(tell)

    def sign_out(self, login: Login) -> None:
        """End one login, by its own user."""
        self._people.revoke_login(login.id)
        self._audit.write(
            login.user.id, "sign-out", login.id, client=login.user.client, via=login.user.via
        )
        self._tell(frozenset({login.id}))

    def logins_of(self, user_id: UserId) -> tuple[SignIn, ...]:
        """Where somebody is signed in, newest first."""
        return self._people.logins_of(user_id, idle_s=self.idle_s)

    def sign_out_one(self, user_id: UserId, login_id: str, *, by: User) -> None:
        """End one login of that user. Raises NotFound."""
        if login_id not in {login.id for login in self.logins_of(user_id)}:
            raise NotFound("This sign-in has ended already.")
        self._people.revoke_login(login_id)
        self._audit.write(by.id, "sign-out", login_id, client=by.client, via=by.via)
        self._tell(frozenset({login_id}))

    def sign_out_everywhere(self, user_id: UserId, *, by: User) -> int:
        """End all logins of that user at once; how many there were."""
        ended = self._people.revoke_logins_of(user_id)
        self._audit.write(
            by.id,
            "sign-out-everywhere",
            user_id,
            detail=f"{len(ended)} sign-ins",
            client=by.client,
            via=by.via,
        )
        self._tell(ended)
        return len(ended)

    def block(self, user_id: UserId, *, blocked: bool, by: User) -> None:
        """Take somebody's access away at once, or give it back.

        Raises:
            NotFound: there is no such person.
            Refused: they would lock themselves out.
        """
        if blocked and user_id in (by.id, OWNER.id):
            raise Refused("You cannot block yourself or the owner of this portal.")
        self._people.block(user_id, blocked=blocked)
        action = "block" if blocked else "unblock"
        self._audit.write(by.id, action, user_id, client=by.client, via=by.via)
        if blocked:
            self.sign_out_everywhere(user_id, by=by)
            self._people.revoke_tokens_of(user_id)

    def _tell(self, ended: frozenset[str]) -> None:
        for login in ended:
            self._ended[login] = None
            with self._lock:
                self._remembered.pop(login, None)
        while len(self._ended) > _MOST_REMEMBERED:
            self._ended.popitem(last=False)
        for tell in self._on_end:
            tell(ended)

    # --- tokens -------------------------------------------------------------------

    def new_token(
        self,
        name: str,
        *,
        user: User = OWNER,
        scopes: Iterable[TokenScope] = tuple(TokenScope),
        lifetime_s: float = TOKEN_LIFETIME_S,
    ) -> str:
        """A token for programs.

        Raises:
            InvalidInput: no name, no scope, or a lifetime that is not allowed.
            Refused: they have too many.
        """
        chosen = frozenset(scopes)
        if not name.strip() or len(name) > 100:
            raise InvalidInput("Give the token a name of at most 100 characters.")
        if not chosen:
            raise InvalidInput("Choose what the token may be used for.")
        if not 0 < lifetime_s <= LONGEST_TOKEN_S:
            raise InvalidInput("A token lives for at least a moment and at most a year.")
        if len(self._people.tokens_of(user.id)) >= MOST_TOKENS:
            raise Refused(f"You have {MOST_TOKENS} tokens already. Withdraw one first.")
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        token_id = secrets.token_hex(8)
        expires = time.time() + lifetime_s
        self._people.add_token(
            token_id, digest(token), user.id, name.strip(), expires, scopes=chosen
        )
        said = f"{name.strip()}: {' '.join(sorted(chosen))}"
        self._audit.write(
            user.id, "token-made", token_id, detail=said, client=user.client, via=user.via
        )
        return token

    def tokens_of(self, user_id: UserId) -> tuple[AccessToken, ...]:
        """The tokens of somebody that still count, newest first."""
        return self._people.tokens_of(user_id)

    def revoke_token(self, user_id: UserId, token_id: str, *, by: User) -> None:
        """Withdraw a token of that user. Raises NotFound."""
        if not self._people.revoke_token(token_id, of=user_id):
            raise NotFound("This token was withdrawn already.")
        self._audit.write(by.id, "token-withdrawn", token_id, client=by.client, via=by.via)


def user_id_of(issuer: str, subject: str) -> UserId:
    """The same for the same subject of the same issuer, for ever; says nothing of either."""
    return UserId("u-" + hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:20])


def secret_in(cookie_header: str) -> str:
    """The login cookie's value in a raw Cookie header; empty unless it came exactly once."""
    values = [
        value
        for name, _, value in (part.strip().partition("=") for part in cookie_header.split(";"))
        if name == COOKIE
    ]
    if len(values) != 1:
        return ""
    try:
        morsel = SimpleCookie(f"{COOKIE}={values[0]}").get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
