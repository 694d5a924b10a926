"""Download an image over https: bounded, checked while it arrives, whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import IO
from urllib.parse import urlsplit

from lib.errors import Refused, StorageFull, Unavailable
from lib.gate.image_reference import ImageName
from lib.gate.images.checksum import Progress, other_checksum

_MAX_BYTES = 64 * 2**30
_MAX_S = 6 * 3600.0
_SILENCE_S = 60.0
_PIECE_BYTES = 2**20


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows only to https, and only to hosts that were agreed on."""

    max_redirections = 5

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._allowed = allowed

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not self._allowed(newurl):
            host = urlsplit(newurl).netloc
            raise Refused(
                f"{urlsplit(req.full_url).netloc} sends on to {host!r:.100}, which is not among "
                "the https_hosts of the gate's policy"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    name: ImageName,
    target: Path,
    *,
    allowed: Callable[[str], bool],
    progress: Progress,
    stop: Event,
) -> None:
    """Fetch `name` into `target`. Blocks; call it in a thread.

    Args:
        allowed: whether to follow a redirect to this address; to the same host always.
        stop: set it to break off.
    Raises:
        Refused: another checksum, too large, or a redirect that is not allowed.
        Unavailable: not reachable, or broken off.
        StorageFull: no room.
    """

    def may_follow(address: str) -> bool:
        parts = urlsplit(address)
        return parts.scheme == "https" and (parts.netloc == name.host or allowed(address))

    opener = urllib.request.build_opener(
        _Redirects(may_follow),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
    )
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with opener.open(name.reference, timeout=_SILENCE_S) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            found = _copy(answer, part, size, progress, stop)
        if found != name.sha256:
            raise Refused(other_checksum(name.reference, found, name.sha256))
        part.replace(target)
    except urllib.error.HTTPError as exc:
        raise Unavailable(f"{name.host} answers {exc.code} {exc.reason}") from exc
    except urllib.error.URLError as exc:
        raise Unavailable(f"{name.host} is not reachable: {exc.reason}") from exc
    except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as exc:
        raise Unavailable(f"{name.host} broke off: {exc}") from exc
    except OSError as exc:
        raise StorageFull(f"{target.parent} cannot take it: {exc.strerror}") from exc
    finally:
        part.unlink(missing_ok=True)


def _copy(answer: IO[bytes], part: Path, size: int, progress: Progress, stop: Event) -> str:
    """Write what arrives. Returns its checksum."""
    deadline = time.monotonic() + _MAX_S
    digest, done = hashlib.sha256(), 0
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        while piece := answer.read(_PIECE_BYTES):
            done += len(piece)
            if done > _MAX_BYTES:
                raise Refused(f"it is larger than {_MAX_BYTES // 2**30} GiB")
            if stop.is_set() or time.monotonic() > deadline:
                raise Unavailable("it was broken off")
            digest.update(piece)
            file.write(piece)
            progress(done, size)
        file.flush()
        os.fsync(file.fileno())
    if size and done != size:
        raise Unavailable(f"only {done} of {size} bytes came")
    return digest.hexdigest()
