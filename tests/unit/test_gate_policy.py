"""The policy file is read strictly, and what it does not allow is not allowed."""

from __future__ import annotations

import copy
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.errors import InvalidInput
from lib.gate.policy import Policy, load, parse
from lib.jobs.control_files import ROOT

GOOD: dict[str, Any] = {
    "format": 1,
    "cluster": "here",
    "users": ["*"],
    "portal_origins": ["http://localhost:*", "https://portal.example.org"],
    "data_paths": ["/archive/landsat"],
    "https_hosts": ["data.example.org"],
    "listen": {"port": 0},
    "scheduler": {"name": "local", "slots": 2},
    "runtime": {"name": "process", "python": sys.executable, "code": "/code"},
    "limits": {"max_live": 3, "keep_days": 1, "max_disk_mb": 5, "idle_s": 60},
    "modules": [
        {
            "id": "active-fire",
            "version": "1.0.0",
            "entry": "modules.active_fire",
            "notebook": "modules/active_fire/notebook.ipynb",
        }
    ],
    "presets": [
        {
            "name": "small",
            "title": "Small",
            "cores": 1,
            "memory_mb": 500,
            "max_walltime_s": 7200,
            "default_walltime_s": 3600,
            "flags": ["--partition=short"],
        }
    ],
}


def policy(home: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Policy:
    data = copy.deepcopy(GOOD)
    change(data)
    return parse(data, home)


def test_a_whole_policy_is_understood(tmp_path: Path) -> None:
    found = policy(tmp_path)
    module = found.module("active-fire", "1.0.0")
    assert module is not None
    assert module.notebook == Path("/code/modules/active_fire/notebook.ipynb")
    assert found.module("active-fire", "2.0.0") is None
    preset = found.preset("small")
    assert preset is not None
    assert preset.flags == ("--partition=short",)
    assert found.limits.keep_s == 86400
    assert found.limits.max_disk_bytes == 5 * 2**20
    assert found.limits.max_staged_bytes == 100_000 * 2**20


def _examples(page: str) -> tuple[str, str, str]:
    """The whole policy, and the parts for slurm and for containers."""
    first, *others = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (slurm,) = [text for text in others if 'name = "slurm"' in text]
    (containers,) = [text for text in others if 'name = "apptainer"' in text]
    return first, slurm, containers


def test_the_documented_example_is_a_valid_policy(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "gate.md").read_text()
    example, slurm, containers = _examples(page)
    example = example.replace('cache = ""', "")
    (tmp_path / "policy.toml").write_text(example)
    assert load(tmp_path / "policy.toml", tmp_path).cluster == "here"
    data = {**copy.deepcopy(GOOD), **tomllib.loads(containers)}
    assert parse(data, tmp_path).modules[0].image is not None
    local = re.search(r"\[scheduler\]\n.*?\n\n", example, re.DOTALL)
    assert local is not None
    (tmp_path / "policy.toml").write_text(example.replace(local[0], slurm + "\n"))
    assert load(tmp_path / "policy.toml", tmp_path).scheduler_name == "slurm"


def test_every_key_of_a_policy_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "gate.md").read_text()
    example = "\n".join(re.findall(r"```toml\n(.*?)```", page, re.DOTALL))
    source = Path(__file__).resolve().parents[2] / "lib"
    text = "".join(
        (source / name).read_text()
        for name in (
            *("gate/policy.py", "jobs/runtimes/process.py", "jobs/runtimes/apptainer.py"),
            *("jobs/schedulers/local.py", "jobs/schedulers/slurm/scheduler.py"),
        )
    )
    keys = set(
        re.findall(r'(?:table|listen)\.(?:whole|number|text|texts|get|table|tables)\("(\w+)"', text)
    )
    assert len(keys) > 15
    assert {key for key in keys if not re.search(rf"^\[*{key}\b", example, re.M)} == set()


def test_an_empty_policy_allows_nothing(tmp_path: Path) -> None:
    data = {k: GOOD[k] for k in ("format", "cluster", "scheduler", "runtime")}
    found = parse(data, tmp_path)
    assert found.modules == found.presets == found.data_paths == ()
    assert not found.may_frame("http://localhost:8501")
    assert not found.may_read_host("https://data.example.org/a.tif")


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        table: Any = data
        for key in path[:-1]:
            table = table[int(key) if key.isdigit() else key]
        table[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("color", to=1), "unknown key 'color'"),
        (_set("listen", "host", to="0.0.0.0"), "unknown key 'host'"),
        (_set("limits", "max_lives", to=1), "unknown key 'max_lives'"),
        (_set("modules", "0", "image", to="x"), "unknown key 'image'"),
        (_set("presets", "0", "flag", to="x"), "unknown key 'flag'"),
        (_set("runtime", "image", to="x"), "unknown key 'image'"),
        (_set("scheduler", "queue", to="x"), "unknown key 'queue'"),
        (_set("format", to=2), "format must be between 1 and 1"),
        (_set("format", to=True), "format must be a whole number"),
        (_set("cluster", to="../x"), "cluster"),
        (_set("listen", "port", to=70000), "port must be between"),
        (_set("limits", "max_live", to=-1), "max_live must be between"),
        (_set("limits", "max_live", to="3"), "must be a whole number"),
        (_set("scheduler", "name", to="cron"), "none of: local"),
        (_set("scheduler", to={}), "lacks the key 'name'"),
        (_set("runtime", "name", to="docker"), "none of: apptainer, process"),
        (_set("portal_origins", to=["*"]), "not allowed"),
        (_set("portal_origins", to=["http://a b"]), "not allowed"),
        (_set("portal_origins", to="http://a"), "must be a list"),
        (_set("https_hosts", to=["https://a.b"]), "not allowed"),
        (_set("https_hosts", to=["*.b"]), "not allowed"),
        (_set("data_paths", to=["relative"]), "absolute"),
        (_set("modules", "0", "entry", to="os; rm"), "entry"),
        (_set("modules", "0", "id", to="Active Fire"), "id"),
        (_set("modules", "0", "notebook", to="n.py"), "ipynb"),
        (_set("modules", to=[*GOOD["modules"], *GOOD["modules"]]), "twice"),
        (_set("presets", to=[*GOOD["presets"], *GOOD["presets"]]), "twice"),
        (_set("presets", "0", "default_walltime_s", to=9000), "default_walltime_s"),
        (_set("presets", "0", "flags", to=[1]), "list of texts"),
        (_set("modules", to={"id": "x"}), "must be a list"),
        (_set("limits", to=3), "must be a table"),
    ],
)
def test_a_mistake_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    with pytest.raises(InvalidInput, match=re.escape(words)):
        policy(tmp_path, change)


def test_folders_that_would_open_too_much_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "home" / "ada"
    gate = account / "gate"
    gate.mkdir(parents=True)
    (account / "data").mkdir()
    (account / "link").symlink_to(account)
    monkeypatch.setenv("HOME", str(account))
    for path in ("/", account, account.parent, gate, gate / "sessions", account / "link"):
        with pytest.raises(InvalidInput, match="data_paths"):
            policy(gate, _set("data_paths", to=[str(path)]))
    assert policy(gate, _set("data_paths", to=[str(account / "data")])).data_paths


def test_binds_that_would_open_the_account_or_the_gate_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "home" / "ada"
    gate = account / "gate"
    gate.mkdir(parents=True)
    (account / "link").symlink_to(account)
    monkeypatch.setenv("HOME", str(account))

    def binds(path: Path) -> dict[str, Any]:
        runtime = {"name": "apptainer", "binds": [f"{path}:/licences"]}
        return {**copy.deepcopy(GOOD), "modules": [], "runtime": runtime}

    for path in (account, account.parent, gate, gate / "sessions", account / "link"):
        with pytest.raises(InvalidInput, match="binds"):
            parse(binds(path), gate)
    with pytest.raises(InvalidInput, match="too much"):
        parse(binds(Path("/")), gate)
    assert parse(binds(account / "licences"), gate)


def test_what_lies_above_the_account_is_refused_wherever_the_gate_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate's folder lies elsewhere, so that it is not what refuses them."""
    account, gate = tmp_path / "home" / "ada", tmp_path / "scratch" / "gate"
    account.mkdir(parents=True)
    gate.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(account))
    for path in (account, account.parent):
        with pytest.raises(InvalidInput, match="that is too much"):
            policy(gate, _set("data_paths", to=[str(path)]))
        runtime = {"name": "apptainer", "binds": [f"{path}:/licences"]}
        with pytest.raises(InvalidInput, match="that is too much"):
            parse({**copy.deepcopy(GOOD), "modules": [], "runtime": runtime}, gate)


def test_where_scratch_lies_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only a node can tell is asked there (tests/unit/test_jobs_scratch.py)."""
    home, gate = tmp_path / "home", tmp_path / "gate"
    monkeypatch.setenv("HOME", str(home))
    slurm = {"name": "slurm"}

    def scratch(to: object, **scheduler: Any) -> str:
        data = {**copy.deepcopy(GOOD), "scratch": to}
        return parse({**data, **scheduler}, gate).scratch

    assert policy(gate).scratch == "/tmp"
    assert scratch("/local/scratch") == "/local/scratch"
    assert scratch("$SLURM_TMPDIR/sb", scheduler=slurm) == "$SLURM_TMPDIR/sb"
    for bad in ("tmp", "/tmp/..", "$HOME/x", str(home), str(home / "x"), str(gate / "x"), 7):
        with pytest.raises(InvalidInput, match="scratch"):
            scratch(bad, scheduler=slurm)
    with pytest.raises(InvalidInput, match="have none of their own"):
        scratch("$TMPDIR")


def test_data_that_would_hide_the_image_is_refused_for_containers_only(tmp_path: Path) -> None:
    data = {**copy.deepcopy(GOOD), "modules": [], "data_paths": ["/opt/data"]}
    assert parse(data, tmp_path).data_paths == (Path("/opt/data"),)
    data["runtime"] = {"name": "apptainer"}
    with pytest.raises(InvalidInput, match="/opt/data would hide /opt in the container"):
        parse(data, tmp_path)
    data["data_paths"] = ["/data/archive"]
    assert parse(data, tmp_path).data_paths


def test_a_container_s_notebook_is_the_one_that_came_with_the_gate(tmp_path: Path) -> None:
    module = {"id": "x", "version": "1", "entry": "x", "image": "/x.sif", "sha256": "0" * 64}
    data = {**copy.deepcopy(GOOD), "runtime": {"name": "apptainer"}}
    data["modules"] = [{**module, "notebook": "/gate/x.ipynb"}]
    assert parse(data, tmp_path).modules[0].notebook == Path("/gate/x.ipynb")
    data["modules"] = [{**module, "notebook": "x.ipynb"}]
    assert parse(data, tmp_path).modules[0].notebook == ROOT / "x.ipynb"
    data["modules"] = [{**module, "notebook": "x.sh"}]
    with pytest.raises(InvalidInput, match=r"must end in \.ipynb"):
        parse(data, tmp_path)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:8501", True),
        ("http://localhost:1", True),
        ("https://portal.example.org", True),
        ("http://localhost", True),
        ("https://localhost:8501", False),
        ("http://localhost:*", False),
        ("http://localhost:8501/x", False),
        ("http://localhost.evil.org:8501", False),
        ("http://evil.org:8501", False),
        ("https://portal.example.org:444", False),
        ("http://localhost:8501; script-src *", False),
        ("http://localhost:8501\n", False),
        ("", False),
    ],
)
def test_only_listed_origins_may_frame(tmp_path: Path, origin: str, allowed: bool) -> None:
    assert policy(tmp_path).may_frame(origin) is allowed


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("https://data.example.org/a/b.tif?x=1", True),
        ("https://data.example.org:443/a.tif", True),
        ("https://DATA.example.org/a.tif", True),
        ("http://data.example.org/a.tif", False),
        ("https://data.example.org:8443/a.tif", False),
        ("https://data.example.org.evil.org/a.tif", False),
        ("https://evil-data.example.org/a.tif", False),
        ("https://evil.org/https://data.example.org/", False),
        ("https://data.example.org@evil.org/", False),
        ("https://u:p@data.example.org/", False),
        ("https://data.example.org\\@evil.org/", False),
        ("https://data.example.org/a b", False),
        ("https://data.example.org/a\nb", False),
        ("https://d\u0430ta.example.org/", False),
        ("https://[::1", False),
        ("https://data.example.org:x/", False),
        ("file:///etc/passwd", False),
        ("/vsicurl/https://data.example.org/a.tif", False),
        ("s3://data.example.org/a.tif", False),
        ("https:///a.tif", False),
    ],
)
def test_only_listed_hosts_may_be_read(tmp_path: Path, address: str, allowed: bool) -> None:
    assert policy(tmp_path).may_read_host(address) is allowed


def test_a_file_that_is_no_policy_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load(tmp_path / "none.toml", tmp_path)
    (tmp_path / "bad.toml").write_text("format = [")
    with pytest.raises(InvalidInput, match="not TOML"):
        load(tmp_path / "bad.toml", tmp_path)
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match="not TOML"):
        load(tmp_path / "bad.toml", tmp_path)
