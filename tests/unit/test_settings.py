"""Settings are read strictly, and each is documented."""

import os
import re
from pathlib import Path

import pytest

from lib.config import settings
from lib.config.settings import KEYS, Group, NotebookOrigin, Provider, Rule
from lib.errors import InvalidInput, Unavailable

PROJECT = Path(__file__).resolve().parents[2]
PROVIDER = '[[provider]]\nid = "a"\nissuer = "https://a.example"\nclient_id = "x"\n'


def write(data: Path, text: str) -> Path:
    (data / "settings.toml").write_text(text)
    return data


def test_without_a_file_everything_is_default(tmp_path):
    loaded = settings.load(tmp_path / "not-there")
    assert loaded.port == 8501
    assert loaded.origin == "http://localhost:8501"
    assert loaded.notebooks is NotebookOrigin.HOST
    assert not (tmp_path / "not-there").exists()


def test_every_key_is_read(tmp_path):
    text = """
        port = 9000
        notebooks = "port"
        notebook_port = 9001
        notebook_ports = [9100, 9110]
        keep_days = 3
        slots = 5
        listen = "127.0.0.2"
        public_origin = "http://portal.localhost:9000"
        notebook_domain = "notebooks.localhost:9000"
        trusted_proxies = ["127.0.0.1", "::1"]
        sign_in_days = 2
        idle_hours = 1
        embedded_groups = ["forest"]
        administrators = [{ provider = "aist", claim = "email", value = "root@aist.example" }]

        [[provider]]
        id = "aist"
        title = "AIST"
        issuer = "https://id.aist.example"
        client_id = "portal"
        client_secret_file = "/etc/secret"
        scope = "openid groups"
        clock_skew_s = 5
        allow = [{ claim = "groups", value = "sensing" }]

        [[group]]
        id = "forest"
        title = "Forest"
        members = [{ provider = "aist", claim = "groups", value = "forest" }]
        leads = [{ provider = "aist", claim = "email", value = "kato@aist.example" }]
    """
    aist = "aist"
    loaded = settings.load(write(tmp_path, text))
    assert {key: getattr(loaded, key) for key in KEYS} == {
        "port": 9000,
        "notebooks": NotebookOrigin.PORT,
        "notebook_port": 9001,
        "notebook_ports": (9100, 9110),
        "keep_days": 3,
        "slots": 5,
        "listen": "127.0.0.2",
        "public_origin": "http://portal.localhost:9000",
        "notebook_domain": "notebooks.localhost:9000",
        "trusted_proxies": ("127.0.0.1", "::1"),
        "sign_in_days": 2,
        "idle_hours": 1,
        "embedded_groups": ("forest",),
        "administrators": (Rule(aist, "email", "root@aist.example"),),
        "provider": (
            Provider(
                aist,
                "AIST",
                "https://id.aist.example",
                "portal",
                Path("/etc/secret"),
                "openid groups",
                (Rule(aist, "groups", "sensing"),),
                5,
            ),
        ),
        "group": (
            Group(
                "forest",
                "Forest",
                (Rule(aist, "groups", "forest"),),
                (Rule(aist, "email", "kato@aist.example"),),
            ),
        ),
    }
    assert loaded.origin == "http://portal.localhost:9000"
    assert not loaded.single_user
    assert (loaded.sign_in_s, loaded.idle_s) == (2 * 86400, 3600)


def test_what_is_not_said_about_sign_ins_depends_on_who_uses_it(tmp_path):
    alone = settings.load(tmp_path)
    assert (alone.single_user, alone.sign_in_s, alone.idle_s) == (True, 30 * 86400, None)
    many = settings.load(write(tmp_path, PROVIDER))
    assert (many.single_user, many.sign_in_s, many.idle_s) == (False, 7 * 86400, 12 * 3600)


def test_the_client_secret_lies_in_a_file(tmp_path):
    loaded = settings.load(write(tmp_path, PROVIDER))
    (provider,) = loaded.provider
    with pytest.raises(Unavailable, match="no client secret for a"):
        loaded.client_secret(provider)
    file = loaded.client_secret_file(provider)
    assert file == tmp_path.resolve() / "secrets" / "oidc-a"
    file.parent.mkdir()
    file.write_text("s3cret\n")
    assert loaded.client_secret(provider) == "s3cret"
    assert "s3cret" not in repr(loaded)


def test_the_notebooks_port_follows_the_portals(tmp_path):
    assert settings.load(tmp_path).port_of_notebooks == 8502
    assert settings.load(tmp_path, port=9001).port_of_notebooks == 9002
    write(tmp_path, "notebook_port = 9500")
    assert settings.load(tmp_path).port_of_notebooks == 9500
    for port in (9500, 65535):
        write(tmp_path, f"notebook_port = {9500 if port == 9500 else 0}")
        with pytest.raises(InvalidInput, match="notebook_port"):
            settings.load(tmp_path, port=port)


def test_the_argument_wins_over_the_file(tmp_path):
    write(tmp_path, "port = 9000")
    assert settings.load(tmp_path, port=9001).port == 9001
    chosen = settings.load(tmp_path, port=9001, notebook_port=9100)
    assert (chosen.port_of_notebooks, chosen.base_of_notebooks) == (9100, "localhost:9100")
    with pytest.raises(InvalidInput, match="notebooks cannot have port 9001"):
        settings.load(tmp_path, port=9001, notebook_port=9001)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ("port = 80", "port in .* from 1024 to 65535"),
        ('port = "8501"', "port in .* whole number"),
        ("port = true", "port in .* whole number"),
        ('notebooks = "path"', '"host" or "port"'),
        ("notebook_port = 80", "notebook_port in .* from 1024 to 65535"),
        ("notebook_port = false", "notebook_port in .* whole number"),
        ("notebook_ports = 9000", "first and the last port"),
        ("notebook_ports = [9000]", "first and the last port"),
        ("notebook_ports = [9001, 9000]", "smaller port"),
        ("keep_days = 0", "keep_days in .* from 1 to 3650"),
        ("slots = -1", "slots in .* from 0 to 1024"),
        ("port =", "not valid TOML"),
        ('listen = "0.0.0.0"', "Without a .*provider.* this computer alone"),
        ('listen = "::"', "Without a .*provider.* this computer alone"),
        ('public_origin = "https://p.example"', "Without a .*provider.* this computer alone"),
        (f'listen = "localhost"\n{PROVIDER}', "listen in .* IP address"),
        (f'public_origin = "http://p.example"\n{PROVIDER}', "must begin with https"),
        (f'public_origin = "https://p.example/x"\n{PROVIDER}', "must be an origin"),
        (f'public_origin = "https://u@p.example"\n{PROVIDER}', "must be an origin"),
        (f'public_origin = "https://p.example"\n{PROVIDER}', "needs a notebook_domain"),
        (
            f'public_origin = "https://p.example"\nnotebooks = "port"\n{PROVIDER}',
            "needs notebooks = .host",
        ),
        ('notebook_domain = "https://x"', "notebook_domain in .* host name"),
        ('trusted_proxies = ["caddy"]', "trusted_proxies in .* IP address"),
        ("sign_in_days = 91", "sign_in_days in .* from 0 to 90"),
        ("idle_hours = -1", "idle_hours in .* from 0"),
        (PROVIDER + PROVIDER, "two providers with the id 'a'"),
        (PROVIDER.replace("https://a.example", "http://a.example"), "https address"),
        (PROVIDER.replace('"https://a.example"', '"https://a.example?x"'), "nothing behind it"),
        (PROVIDER.replace('id = "a"', 'id = "A b"'), "must be an id"),
        (PROVIDER + 'scope = "email"\n', "must contain openid"),
        (PROVIDER + 'secret = "x"\n', "unknown setting 'secret'"),
        (PROVIDER + "clock_skew_s = 601\n", "clock_skew_s in .* from 0 to 600"),
        (PROVIDER + '[[group]]\nid = "g"\nmembers = 1\n', "must be a list"),
        (
            PROVIDER + '[[group]]\nid = "g"\nmembers = [{provider="b", claim="c", value="v"}]\n',
            "names the provider 'b', which is not there. There are: a",
        ),
        (
            'administrators = [{ provider = "a", claim = "c" }]\n' + PROVIDER,
            "value in .*administrators",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    with pytest.raises(InvalidInput, match=said):
        settings.load(write(tmp_path, text))


def test_a_wrong_port_argument_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="--port must be a whole number"):
        settings.load(tmp_path, port=99999)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "settings.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="cannot be read"):
        settings.load(tmp_path)


def test_the_process_takes_its_data_folder_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "_current", None)
    monkeypatch.setitem(os.environ, "SCENEBRIDGE_DATA", str(tmp_path))
    assert settings.current().data == tmp_path.resolve()
    assert settings.current() is settings.current()


def test_every_key_is_documented_with_its_default():
    page = (PROJECT / "docs" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", page, re.MULTILINE))
    assert set(rows) == set(KEYS)
    default = settings.load(Path("/nonexistent"))
    for key, shown in rows.items():
        value = getattr(default, key)
        assert shown == (str(list(value)) if isinstance(value, tuple) else repr_toml(value)), key


def repr_toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_the_example_in_the_documentation_is_valid(tmp_path):
    page = (PROJECT / "docs" / "settings.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert settings.load(write(tmp_path, example)).keep_days == 30
