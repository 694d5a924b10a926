"""A private certificate authority for tests, and a small server with its certificates."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Issued:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs for any name. `file` is what a client must trust."""

    def __init__(self, folder: Path, name: str = "Test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=400))
            .not_valid_after(now + dt.timedelta(days=400))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / "authority.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, *names: str, days: float = 90, of: float = 0, self_signed: bool = False
    ) -> Issued:
        """A certificate that ends in so many days (`of` its life), or has ended."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.timezone.utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=of - days if of else 100))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([_name(n) for n in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(key if self_signed else self._key, hashes.SHA256())
        )
        stem = self._folder / f"{certificate.serial_number:x}"
        issued = Issued(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        issued.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return issued


@dataclass
class SecureSite:
    """What `secure_site` serves; may be changed while it runs."""

    port: int
    certificates: dict[str, Issued]
    answer: bytes = b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\n\r\n"


@contextlib.contextmanager
def secure_site(certificates: dict[str, Issued]) -> Iterator[SecureSite]:
    """A TLS server on loopback; which certificate it shows goes by the end of the name."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.1)
        site = SecureSite(listener.getsockname()[1], certificates)
        over = threading.Event()
        thread = threading.Thread(target=_serve, args=(listener, site, over))
        thread.start()
        try:
            yield site
        finally:
            over.set()
            thread.join(300)


def _serve(listener: socket.socket, site: SecureSite, over: threading.Event) -> None:
    while not over.is_set():
        try:
            plain, _ = listener.accept()
        except TimeoutError:
            continue
        with plain, contextlib.suppress(OSError):
            plain.settimeout(300)
            with _context(site).wrap_socket(plain, server_side=True) as secure:
                secure.recv(4096)
                secure.sendall(site.answer)


def _context(site: SecureSite) -> ssl.SSLContext:
    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        for end, issued in site.certificates.items():
            if (name or "").endswith(end):
                connection.context = _with(issued)

    context = _with(next(iter(site.certificates.values())))
    context.sni_callback = choose  # type: ignore[assignment]
    return context


def _with(issued: Issued) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    return context


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
