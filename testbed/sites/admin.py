"""An administrator's own computer: behind its firewall, with a key in an agent."""

from testbed.sites import Machine, Person, Site

AGENT = "/run/ada/agent"

SITE = Site(
    name="admin",
    machines=(Machine("admin", {"wan": "10.77.0.2"}, services=("agent",)),),
    people=(Person("ada", 2001, environment={"SSH_AUTH_SOCK": AGENT}),),
    shared_home=False,
)
