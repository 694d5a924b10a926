"""The portal's side of the inner connection: verbs and forwards through stock OpenSSH."""

from lib.tunnels.gate_address import GateAddress, SocketAddress, TcpAddress
from lib.tunnels.link import ClusterLink

__all__ = ["ClusterLink", "GateAddress", "SocketAddress", "TcpAddress"]
