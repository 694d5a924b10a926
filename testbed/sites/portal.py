"""The portal's host: the portal's account, the administrator's, and somebody else's."""

from testbed.sites import Machine, Person, Site

SITE = Site(
    name="portal",
    machines=(Machine("portal", {"wan": "10.77.0.3"}, services=("sshd",), guarded=False),),
    people=(
        Person("ada", 2001, authorised=True),
        Person("scenebridge", 2002),
        Person("mallory", 2003),
    ),
    shared_home=False,
)
