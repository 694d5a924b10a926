"""The outer tunnels: opened by people in their own accounts, used by the portal.

`records` is what both sides read; everything else here runs in the administrator's
account, and the portal never calls it.
"""
