"""Sign-ins of browsers: login sessions with a cookie, their idle time and their end.

A sign-in ends by its age, by idle time, by its user, by an administrator, when its user
is blocked, and when the settings no longer let them come; each of them is noticed at the
next question.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from cachetools import TTLCache

from lib.auth.limits import OncePer
from lib.auth.secret import digest, new_id, new_secret
from lib.errors import NotFound
from lib.model import User, UserId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lib.auth.groups import Membership
    from lib.model import SignIn
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
LOGIN_LIFETIME_S = 30 * 24 * 3600.0
_TOUCH_EVERY_S = 60.0
#: So long an answer about a sign-in counts without asking the store again; one that ends in
#: this process ends at once. A page asks dozens of times while it is drawn, and each question
#: to the store hands the interpreter to another thread.
_REMEMBER_S = 0.25
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Login:
    """A browser that signed in. `id` is no secret."""

    id: str
    user: User


class Logins:
    """`Auth.logins`. Safe to call from any thread and from several processes on one store.

    Args:
        membership: by which rules somebody may come; asked for at each question.
        idle_s: a sign-in that nobody uses ends after so long; None: never.
        lifetime_s: the longest life of a sign-in.
    """

    def __init__(
        self,
        store: Store,
        membership: Callable[[], Membership],
        clock: Callable[[], float],
        *,
        idle_s: float | None,
        lifetime_s: float,
    ) -> None:
        self._people = store.people
        self._audit = store.audit
        self._membership = membership
        self.idle_s = idle_s
        self.lifetime_s = lifetime_s
        self._touched = OncePer(_TOUCH_EVERY_S, clock)
        self._remembered: TTLCache[str, Login] = TTLCache(_MOST_REMEMBERED, _REMEMBER_S, clock)
        self._lock = threading.Lock()  # of what is remembered
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._on_end: list[Callable[[frozenset[str]], None]] = []

    def begin(self, user_id: UserId, provider: str, client: str, browser: str) -> str:
        """Sign in whoever may come, which was asked before; the login cookie's value."""
        secret, login_id = new_secret(), new_id()
        self._people.add_login(
            login_id,
            digest(secret),
            user_id,
            time.time() + self.lifetime_s,
            provider=provider,
            client=client,
            browser=browser,
        )
        self._audit.write(
            user_id, "sign-in", login_id, detail=provider, client=client, via=f"login:{login_id}"
        )
        return secret

    # --- who is asking ----------------------------------------------------------

    def of_secret(self, secret: str, client: str = "") -> Login | None:
        """The living login whose cookie value this is."""
        if not secret:
            return None
        return self._login(self._people.login_by_hash(digest(secret), idle_s=self.idle_s), client)

    def of_cookies(self, cookies: Mapping[str, str], client: str = "") -> Login | None:
        return self.of_secret(cookies.get(COOKIE, ""), client)

    def of_header(self, cookie_header: str, client: str = "") -> Login | None:
        """From a raw Cookie header; two cookies of our name are refused."""
        return self.of_secret(secret_in(cookie_header), client)

    def by_id(self, login_id: str) -> Login | None:
        """The login with this id, while it lives."""
        with self._lock:
            known = self._remembered.get(login_id)
        if known is not None and login_id not in self._ended:
            return known
        return self._login(self._people.login_by_id(login_id, idle_s=self.idle_s), "")

    def _login(self, found: LivingLogin | None, client: str) -> Login | None:
        if found is None or found.id in self._ended:
            return None
        user = self._membership().admitted(found.account, via=f"login:{found.id}", client=client)
        if user is None:
            return None
        login = Login(found.id, user)
        with self._lock:
            self._remembered[found.id] = login
        return login

    def of(self, user_id: UserId) -> tuple[SignIn, ...]:
        """Where somebody is signed in, newest first."""
        return self._people.logins_of(user_id, idle_s=self.idle_s)

    def living(self, login_ids: Iterable[str]) -> frozenset[str]:
        """Those of these logins that still count. One query."""
        return self._people.living(login_ids, idle_s=self.idle_s)

    def touch(self, login_id: str) -> None:
        """A person acted under this login: its idle time starts again. Cheap."""
        if self._touched.due(login_id):
            self._people.login_seen(login_id)

    # --- ending -------------------------------------------------------------------

    def on_end(self, tell: Callable[[frozenset[str]], None]) -> None:
        """`tell` gets the ids of logins that are ended in this process, in any thread."""
        self._on_end.append(tell)

    def sign_out(self, login: Login) -> None:
        """End one login, by its own user."""
        self._end(login.id, by=login.user)

    def sign_out_one(self, user_id: UserId, login_id: str, *, by: User) -> None:
        """End one login of that user. Raises NotFound."""
        if login_id not in {login.id for login in self.of(user_id)}:
            raise NotFound("This sign-in has ended already.")
        self._end(login_id, by=by)

    def _end(self, login_id: str, *, by: User) -> None:
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

    def _tell(self, ended: frozenset[str]) -> None:
        for login in ended:
            self._ended[login] = None
            with self._lock:
                self._remembered.pop(login, None)
        while len(self._ended) > _MOST_REMEMBERED:
            self._ended.popitem(last=False)
        for tell in self._on_end:
            tell(ended)


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
