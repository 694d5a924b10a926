"""Parse and validate container image references of the policy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from lib.errors import InvalidInput

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REGISTRY = re.compile(
    r"(docker|oras)://[a-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9._-]+)+(:[A-Za-z0-9._-]+)?@sha256:[0-9a-f]{64}"
)
_HTTPS = re.compile(r"https://[a-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._~/%+@-]*")


class Kind(Enum):
    """Where an image comes from."""

    FILE = "a file of the cluster"
    HTTPS = "an https address"
    REGISTRY = "a registry"


@dataclass(frozen=True, slots=True)
class ImageName:
    """An image and how to know that it is the right one.

    Args:
        reference: absolute path, https address, or docker/oras reference with a digest.
        sha256: of the file; "" for a registry, where the digest in the reference counts.
    """

    reference: str
    sha256: str

    @property
    def kind(self) -> Kind:
        """By how the reference begins."""
        if self.reference.startswith("/"):
            return Kind.FILE
        return Kind.HTTPS if self.reference.startswith("https://") else Kind.REGISTRY

    @property
    def host(self) -> str:
        """Whom to ask for it; "" for a file."""
        return "" if self.kind is Kind.FILE else urlsplit(self.reference).netloc


def read_image_name(reference: str, sha256: str, where: str, state_dir: Path) -> ImageName:
    """Check the keys `image` and `sha256` of a module.

    Args:
        state_dir: the gate's folder; an image below its sessions would be written by jobs.
    Raises:
        InvalidInput: with one sentence that names the key.
    """
    name = ImageName(reference, sha256)
    if name.kind is Kind.REGISTRY:
        if _REGISTRY.fullmatch(reference) is None:
            raise InvalidInput(
                f"{where}: image = {reference!r:.120} must be an absolute path, an https address, "
                "or docker:// or oras:// with a digest (@sha256:...)."
            )
        if sha256:
            raise InvalidInput(f"{where}: the digest in image takes the place of sha256.")
        return name
    if _SHA256.fullmatch(sha256) is None:
        raise InvalidInput(f"{where}: image needs sha256, 64 hexadecimal digits (sha256sum FILE).")
    if name.kind is Kind.HTTPS and _HTTPS.fullmatch(reference) is None:
        raise InvalidInput(f"{where}: image = {reference!r:.120} is not a plain https address.")
    if name.kind is Kind.FILE:
        sessions = (state_dir / "sessions").resolve()
        real = Path(reference).resolve()
        if not reference.isprintable() or real == sessions or sessions in real.parents:
            raise InvalidInput(f"{where}: image = {reference!r:.120} must not lie there.")
    return name
