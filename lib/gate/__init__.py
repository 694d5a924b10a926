"""The gate: a restricted SSH server on a login node. See docs/gate.md."""

VERSION = "0.1.0"
