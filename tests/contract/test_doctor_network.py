"""admin.py doctor on the network: providers, names and certificates, each fault made."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib import cli
from lib.doctor import internet, people
from tests.fakes.authority import Authority, SecureSite, secure_site
from tests.fakes.installation import bad, found, make_data_folder, write_settings
from tests.fakes.lying_provider import LyingProvider, lying_provider


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data_folder(tmp_path / "data")


@pytest.fixture(scope="module")
def serving() -> Iterator[LyingProvider]:
    with lying_provider() as it:
        yield it


@pytest.fixture
def liar(serving: LyingProvider) -> LyingProvider:
    serving.be_honest()
    return serving


# --- providers ----------------------------------------------------------------------------


def test_a_provider_that_answers(data: Path, liar: LyingProvider) -> None:
    write_settings(data, liar.issuer)
    check = found(data)["provider aist"]
    assert check.ok
    assert "1 keys" in check.detail


@pytest.mark.parametrize(
    ("fault", "value", "said"),
    [
        ("status", {"metadata": 500}, "has a fault (500)"),
        ("body", {"metadata": b"<html>"}, "cannot read"),
        ("body", {"keys": b"{}"}, "cannot read"),
        ("metadata", {"issuer": "https://evil.example"}, "as the issuer"),
        ("metadata", {"token_endpoint": None}, "cannot read"),
        ("clock_ahead_s", 720, "12 minutes apart"),
        ("clock_ahead_s", -720, "12 minutes apart"),
    ],
)
def test_a_provider_that_lies_is_found(
    data: Path, liar: LyingProvider, fault: str, value: object, said: str
) -> None:
    write_settings(data, liar.issuer)
    setattr(liar, fault, value)
    assert said in bad(data, "provider aist")


def test_a_slow_and_a_dead_provider_are_found(
    data: Path, liar: LyingProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(data, liar.issuer)
    liar.hang = {"metadata"}
    with monkeypatch.context() as short:
        short.setattr(people, "_LIMIT_S", 0.5)
        assert "takes too long" in bad(data, "provider aist")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        write_settings(data, f"http://127.0.0.1:{nobody.getsockname()[1]}/realm/")
        said = bad(data, "provider aist")
    assert "cannot be reached" in said
    assert said.endswith("/realm/.well-known/openid-configuration")


# --- names and certificates -----------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """One that this process trusts, and no other."""
    folder = tmp_path / "authority"
    folder.mkdir()
    it = Authority(folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(it.file))
    return it


PORTAL, NOTEBOOKS = "portal.localhost", "nb.localhost"


@pytest.fixture
def site(data: Path, liar: LyingProvider, authority: Authority) -> Iterator[SecureSite]:
    """A front server with good certificates, and the settings of a portal behind it."""
    certificates = {PORTAL: authority.issue(PORTAL), NOTEBOOKS: authority.issue(f"*.{NOTEBOOKS}")}
    with secure_site(certificates) as it:
        write_settings(
            data,
            liar.issuer,
            f'public_origin = "https://{PORTAL}:{it.port}"',
            f'notebook_domain = "{NOTEBOOKS}:{it.port}"',
        )
        yield it


def test_good_certificates_are_good(data: Path, site: SecureSite) -> None:
    checks = found(data)
    for name in ("TLS portal", "TLS notebooks"):
        assert checks[name].ok, checks[name].detail
        assert "90 days, with HSTS" in checks[name].detail


@pytest.mark.parametrize(("name", "host"), [("portal", PORTAL), ("notebooks", NOTEBOOKS)])
@pytest.mark.slow
def test_a_bad_certificate_is_found(
    data: Path, site: SecureSite, authority: Authority, tmp_path: Path, name: str, host: str
) -> None:
    own = host if name == "portal" else f"*.{host}"
    (tmp_path / "other").mkdir()
    faults = {
        "renew it": authority.issue(own, days=-1),
        "ends in 13 days": authority.issue(own, days=13.1),
        "get a certificate for this name": authority.issue(f"x.y.{host}"),
        "use one of an authority": authority.issue(own, self_signed=True),
        "with its whole chain": Authority(tmp_path / "other", "Another").issue(own),
    }
    for said, issued in faults.items():
        site.certificates[host] = issued
        assert said in bad(data, f"TLS {name}")
    for good in (authority.issue(own, days=14.5), authority.issue(own, days=2, of=6)):
        site.certificates[host] = good
        assert found(data)[f"TLS {name}"].ok
    site.certificates[host] = authority.issue(own, days=1, of=6)
    assert "ends in 1 days" in bad(data, f"TLS {name}")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "no Strict-Transport-Security"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "do the ports agree"),
        (b"SSH-2.0-x\r\n\r\n", "cannot be reached"),
        (b"HTTP/1.1", "no answer of a web server"),
    ],
)
def test_a_wrong_answer_is_found(data: Path, site: SecureSite, answer: bytes, said: str) -> None:
    site.answer = answer
    assert said in bad(data, "TLS portal")
    assert said in bad(data, "TLS notebooks")


def test_a_front_server_that_is_down_is_found(data: Path, liar: LyingProvider) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        write_settings(
            data,
            liar.issuer,
            f'public_origin = "https://{PORTAL}:{port}"',
            f'notebook_domain = "{NOTEBOOKS}:{port}"',
        )
        assert "is the front server running" in bad(data, "TLS portal")


def test_names_that_do_not_resolve_are_found(data: Path, liar: LyingProvider) -> None:
    write_settings(
        data,
        liar.issuer,
        'public_origin = "https://portal.scenebridge.invalid"',
        'notebook_domain = "notebooks.invalid"',
    )
    assert "add a DNS record for portal.scenebridge.invalid" in bad(data, "DNS portal")
    assert "add a wildcard record *.notebooks.invalid" in bad(data, "DNS notebooks")
    assert "cannot be reached" in bad(data, "TLS portal")


def test_names_that_lead_to_two_places_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a resolver would say of names that only a real zone could hold."""
    zone = {"portal.example.org": "192.0.2.1", "nb-1.notebooks.example.net": "192.0.2.2"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *_, **__: [(2, 1, 6, "", (zone[host], 0))]
    )
    portal, notebooks = (internet._Place(h, h, h, 443) for h in zone)
    (*_, last) = internet.names(portal, notebooks)
    assert not last.ok
    assert "the one front server" in last.detail
    zone["nb-1.notebooks.example.net"] = "192.0.2.1"
    assert all(check.ok for check in internet.names(portal, notebooks))


@pytest.mark.parametrize(
    ("portal", "notebooks", "apart"),
    [
        ("portal.example.org", "scenes-notebooks.net", True),
        ("portal.example.org", "notebooks.example.org", False),
        ("portal.example.org", "nb.portal.example.org", False),
        ("portal.aist.go.jp", "notebooks.jaxa.go.jp", True),
        ("portal.aist.go.jp", "notebooks.aist.go.jp", False),
        ("portal.localhost", "nb.localhost", True),
    ],
)
def test_a_notebook_domain_that_is_the_portal_s_is_found(
    portal: str, notebooks: str, apart: bool
) -> None:
    assert internet.domains(portal, notebooks).ok == apart


# --- the command ---------------------------------------------------------------------------


def test_the_command_says_it_for_people_and_programs(
    data: Path, site: SecureSite, capsys: pytest.CaptureFixture[str]
) -> None:
    site.answer = b"HTTP/1.1 502 x\r\n\r\n"
    assert cli.run(["doctor", "--data", str(data)]) == 1
    said = capsys.readouterr().out
    assert "\nBAD  TLS portal: " in said
    assert "\nok   provider aist: " in said
    assert cli.run(["doctor", "--data", str(data), "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == len(said.splitlines())
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
