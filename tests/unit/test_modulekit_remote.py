"""Bands behind https: read in parts from a real TLS server; everything else is refused."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import re
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modulekit.errors import SceneError
from modulekit.raster import SceneReader, gdal_environment
from modulekit.scenes import SceneLink, read_item
from tests.fixtures.module_scenes import write_scene


def certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


class Files(http.server.BaseHTTPRequestHandler):
    """Serves one folder with byte ranges and notes what was asked for."""

    folder: Path
    sent: list[int]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.folder / self.path.split("?")[0].strip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(part[1]), min(int(part[2]), len(data) - 1)) if part else (0, len(data))
        body = data[first : last + 1]
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.sent.append(len(body))
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Any]:
    pem = certificate(tmp_path)
    handler = type("Handler", (Files,), {"folder": tmp_path, "sent": []})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    running.socket = context.wrap_socket(running.socket, server_side=True)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("GDAL_CURL_CA_BUNDLE", str(pem))
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def remote_scene(tmp_path: Path, address: str, bands: dict[str, np.ndarray]) -> SceneReader:
    path = write_scene(tmp_path, "s", bands)
    item = json.loads(path.read_text())
    for key, asset in item["assets"].items():
        asset["href"] = f"{address}/s/{key}.tif?signature=abc"
    path.write_text(json.dumps(item))
    return SceneReader(read_item(SceneLink("s", path)))


def bands_of(height: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    return {"red": rng.integers(1, 60_000, (height, 1024)).astype(np.uint16)}


def test_a_band_behind_https_is_read_in_parts(tmp_path, server):
    bands = bands_of(1024)
    address = f"https://127.0.0.1:{server.server_address[1]}"
    with gdal_environment(), remote_scene(tmp_path, address, bands) as scene:
        scene.open(["red"])
        assert np.array_equal(scene.window("red", 5, 6, 20, 30), bands["red"][5:25, 6:36])
        whole = (tmp_path / "s" / "red.tif").stat().st_size
        assert 0 < sum(server.RequestHandlerClass.sent) < whole / 2
        strips = [s.bands["red"][s.inner] for s in scene.strips(("red",), 256, 0)]
        assert np.array_equal(np.concatenate(strips), bands["red"])


def test_a_band_that_is_gone_is_one_sentence(tmp_path, server):
    address = f"https://127.0.0.1:{server.server_address[1]}"
    with gdal_environment(), remote_scene(tmp_path, address, bands_of(64)) as scene:
        (tmp_path / "s" / "red.tif").unlink()
        with pytest.raises(SceneError, match=r"cannot be read from 127\.0\.0\.1") as caught:
            scene.open(["red"])
    assert "signature" not in caught.value.message


def test_without_tls_nothing_is_asked(tmp_path, server):
    address = f"http://127.0.0.1:{server.server_address[1]}"
    scene = remote_scene(tmp_path, address, bands_of(64))
    with gdal_environment(), scene, pytest.raises(SceneError, match="is not there"):
        scene.open(["red"])
    assert server.RequestHandlerClass.sent == []


def test_a_server_that_is_not_trusted(tmp_path, server, monkeypatch):
    monkeypatch.delenv("GDAL_CURL_CA_BUNDLE")
    address = f"https://127.0.0.1:{server.server_address[1]}/untrusted/.."
    scene = remote_scene(tmp_path, address, bands_of(64))
    refused = pytest.raises(SceneError, match=r"cannot be read from 127\.0\.0\.1")
    with gdal_environment(), scene, refused:
        scene.open(["red"])
    assert server.RequestHandlerClass.sent == []
