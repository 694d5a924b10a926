"""Secrets of sign-ins, links and tokens: random, told once, and stored as SHA-256 alone."""

from __future__ import annotations

import hashlib
import secrets


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def new_id() -> str:
    """The name of one in lists and in the audit log; no secret."""
    return secrets.token_hex(8)


def digest(secret: str) -> str:
    """What is stored of a secret, and what is looked for."""
    return hashlib.sha256(secret.encode()).hexdigest()
