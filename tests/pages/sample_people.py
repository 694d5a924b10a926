"""The people of the test portal: an administrator, a lead, users; and the owner of its computer.

All but the owner come from one provider, by whose claims they are what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib.auth import Membership
from lib.config.settings.people import Group, Provider, Rule

if TYPE_CHECKING:
    from lib.auth import Auth
    from lib.model import User

#: Nobody listens there: a browser that goes on to sign in learns that it does not answer.
CAMPUS = Provider("campus", "Campus of Tests", "http://127.0.0.1:9", "portal")
MEMBERSHIP = Membership(
    [CAMPUS],
    [
        Group(
            "fires",
            "Forest fires",
            members=(Rule("campus", "groups", "fires"),),
            leads=(Rule("campus", "leads", "fires"),),
        ),
        Group("ships", "Ships and ports", members=(Rule("campus", "groups", "ships"),)),
    ],
    [Rule("campus", "groups", "portal-admins")],
)
#: Name and claims of everybody, by what tests call them.
PEOPLE: dict[str, tuple[str, dict[str, Any]]] = {
    "administrator": ("Ada Admin", {"groups": ["portal-admins"], "email": "ada@campus.example"}),
    "lead": ("Leo Lead", {"groups": ["fires"], "leads": ["fires"], "email": "leo@campus.example"}),
    "user": ("Uma User", {"groups": ["fires"], "email": "uma@campus.example"}),
    "other": ("Sam Other", {"groups": ["ships"], "email": "sam@campus.example"}),
}
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


def sign_in(
    auth: Auth,
    who: str,
    *,
    name: str = "",
    claims: dict[str, Any] | None = None,
    browser: str = FIREFOX,
    client: str = "192.0.2.17",
) -> str:
    """The cookie's value of a browser in which that person has just signed in."""
    usual = PEOPLE.get(who, (who, {}))
    return auth.admit(
        CAMPUS.id,
        who,
        name=name or usual[0],
        claims=usual[1] if claims is None else claims,
        issuer=CAMPUS.issuer,
        client=client,
        browser=browser,
    )


def user_of(auth: Auth, secret: str) -> User:
    """Who speaks with this cookie."""
    login = auth.logins.of_secret(secret, "192.0.2.17")
    assert login is not None
    return login.user
