"""The protocol between portal and gate: its messages, their encoding, a module's events."""
