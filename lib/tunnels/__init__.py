"""The portal's side of the inner connection: verbs and forwards through stock OpenSSH."""

from lib.tunnels.link import ClusterLink
from lib.tunnels.reach import Reach, SocketReach, TcpReach

__all__ = ["ClusterLink", "Reach", "SocketReach", "TcpReach"]
