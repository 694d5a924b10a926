"""admin.py as users call it: what it prints, for people and programs, and how it ends."""

import json
import os
import shutil
import socket
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from lib import cli, doctor
from lib.auth import OWNER, Auth
from lib.cli import detect, exit_code
from lib.cli.output import table
from lib.config.data_dir import PortalRecord, lock_data_folder
from lib.config.runtime_dir import name_data_folder, runtime_path
from lib.errors import Conflict, InvalidInput, InvalidProduct, NotFound
from lib.model import (
    ClusterId,
    ModuleId,
    Reachability,
    Resources,
    Run,
    RunId,
    RunScene,
    RunState,
    SceneId,
    SceneState,
    Session,
    SessionId,
    SessionState,
)
from lib.scenes.local_catalog import LocalCatalog
from lib.scenes.synthetic import FormosatSpec, LandsatSpec, write_formosat, write_landsat
from lib.store import Store
from lib.store.changes import SessionChange
from tests.fakes.stores import new_store

PROJECT = Path(__file__).resolve().parents[2]
RUN = RunId("11111111-1111-4111-8111-111111111111")
SESSION = SessionId("22222222-2222-4222-8222-222222222222")


def admin(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    try:
        code = cli.run([str(a) for a in arguments])
    except SystemExit as exc:
        code = exc.code
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> dict[str, Path]:
    """Two small synthetic products on disk."""
    from datetime import date

    folder = tmp_path_factory.mktemp("products")
    landsat = LandsatSpec(135.20, 34.45, 110, 36, date(2023, 10, 28), 2, size=300)
    formosat = FormosatSpec(120.50, 24.30, date(2012, 10, 5), 11, size=300)
    return {
        "landsat": write_landsat(folder / "l", landsat),
        "formosat": write_formosat(folder / "f", formosat),
    }


@pytest.fixture(scope="module")
def filled(tmp_path_factory, products) -> Path:
    """A data folder that holds both."""
    data = tmp_path_factory.mktemp("data")
    for product in products.values():
        LocalCatalog(data / "scenes").add(product)
    return data


def the(data: Path, platform: str) -> str:
    from lib.model import SceneQuery

    (scene,) = LocalCatalog(data / "scenes").search(SceneQuery(platforms=(platform,))).scenes
    return scene.id


# --- scenes ---------------------------------------------------------------------------------


def test_scenes_are_added_listed_shown_and_removed(capsys, tmp_path, products):
    code, out, _ = admin(
        capsys, "scenes", "add", products["formosat"], "--data", tmp_path, "--json"
    )
    assert code == 0
    added = json.loads(out)["added"][0]
    assert added["platform"] == "formosat-2"
    code, out, _ = admin(capsys, "scenes", "list", "--data", tmp_path)
    assert code == 0
    assert added["id"] in out
    code, out, _ = admin(capsys, "scenes", "show", added["id"], "--data", tmp_path, "--json")
    assert json.loads(out)["stac_version"] == "1.1.0"
    code, out, _ = admin(capsys, "scenes", "remove", added["id"], "--data", tmp_path)
    assert (code, out) == (0, f"Removed {added['id']}\n")
    _, out, _ = admin(capsys, "scenes", "list", "--data", tmp_path)
    assert out == "There are no such scenes.\n"


def test_the_list_can_be_narrowed(capsys, filled):
    _, out, _ = admin(
        capsys, "scenes", "list", "--platform", "landsat-8", "--data", filled, "--json"
    )
    assert [scene["platform"] for scene in json.loads(out)] == ["landsat-8"]


def test_a_product_that_cannot_be_read_does_not_hold_up_the_others(capsys, tmp_path, products):
    (tmp_path / "empty").mkdir()
    data = tmp_path / "data"
    paths = (tmp_path / "empty", products["formosat"])
    code, out, err = admin(capsys, "scenes", "add", *paths, "--data", data)
    assert code == 1
    assert out.startswith("Added ")
    which, broken = err.splitlines()
    assert which.startswith(f"This is about the portal on {data}, which is made now.")
    assert "MTL" in broken


def test_a_hostile_path_does_not_drive_the_terminal(capsys, tmp_path):
    product = tmp_path / "a\x1b[2J\x1b]0;pwned\x07"
    product.mkdir()
    for command in (("scenes", "add"), ("detect", "active-fire", "--out", tmp_path / "o")):
        code, out, err = admin(capsys, *command, product, "--data", tmp_path / "data")
        assert code == 1
        assert "a\\x1b[2J" in err
        assert all(c.isprintable() or c == "\n" for c in out + err)


def test_a_wrong_id_removes_nothing(capsys, filled):
    known = the(filled, "landsat-8")
    code, _, err = admin(capsys, "scenes", "remove", known, "NO_SUCH_SCENE", "--data", filled)
    assert code == 1
    assert "NO_SUCH_SCENE" in err
    assert LocalCatalog(filled / "scenes").get(known).id == known


def test_an_unwritable_data_folder_is_one_sentence(capsys):
    code, out, err = admin(capsys, "samples", "get", "--data", "/proc/1/x")
    assert (code, out) == (1, "")
    assert "cannot be written to" in err


# --- modules and detect ---------------------------------------------------------------------


def test_modules_are_listed_with_what_they_read(capsys):
    code, out, _ = admin(capsys, "modules", "list", "--json")
    assert code == 0
    listed = {module["id"]: module for module in json.loads(out)}
    assert {"active-fire", "offshore-objects"} <= set(listed)
    assert listed["active-fire"]["params"]["type"] == "object"
    assert "active-fire" in admin(capsys, "modules", "list")[1]


@pytest.mark.slow
def test_detect_runs_the_module_on_a_product(capfd, tmp_path, products):
    out_folder = tmp_path / "out"
    options = ["--out", str(out_folder), "--data", str(tmp_path / "data"), "--json"]
    code = cli.run(["detect", "offshore-objects", str(products["formosat"]), *options])
    answer = json.loads(capfd.readouterr().out)
    assert code == 0
    found = json.loads((out_folder / answer["scene"] / "detections.geojson").read_text())
    assert answer["objects"] == len(found["features"]) == sum(answer["classes"].values())
    assert not (tmp_path / "data").exists(), "the product is taken in for this once"


@pytest.mark.slow
def test_detect_takes_a_scene_of_the_portal_and_says_what_it_does(capfd, tmp_path, filled):
    scene = the(filled, "landsat-8")
    code = cli.run(
        ["detect", "active-fire", scene, "--out", str(tmp_path / "out"), "--data", str(filled)]
    )
    said = capfd.readouterr().out
    assert code == 0
    assert f"Searching {scene}" in said
    assert f"objects in {scene}" in said
    assert (tmp_path / "out" / scene / "mask.tif").exists()


def test_detect_says_why_a_scene_does_not_fit(capsys, tmp_path, products):
    arguments = ("detect", "active-fire", products["formosat"], "--out", tmp_path / "out")
    code, _, err = admin(capsys, *arguments)
    assert code == 1
    assert "the module reads Landsat 8" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "product", "params", "code", "said"),
    [
        ("no-such-module", "landsat", None, 1, "no module 'no-such-module'"),
        ("active-fire", "missing", None, 1, "no file or folder"),
        ("active-fire", "landsat", '{"colour": 3}', 2, "no parameter 'colour'"),
        ("active-fire", "landsat", "[]", 2, "must be a JSON object"),
        ("active-fire", "landsat", "{", 2, "cannot be read"),
    ],
)
def test_detect_refuses_in_one_sentence(
    capsys, tmp_path, products, module, product, params, code, said
):
    arguments = [
        "detect",
        module,
        products.get(product, tmp_path / product),
        "--out",
        tmp_path / "o",
    ]
    if params is not None:
        (tmp_path / "params.json").write_text(params)
        arguments += ["--params", tmp_path / "params.json"]
    got, out, err = admin(capsys, *arguments, "--data", tmp_path / "data")
    assert (got, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_detect_never_writes_into_a_folder_that_is_in_use(capsys, tmp_path, products):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    code, _, err = admin(
        capsys, "detect", "active-fire", products["landsat"], "--out", tmp_path / "out"
    )
    assert code == 1
    assert "not empty" in err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_line_that_is_still_being_written_is_not_an_event(tmp_path):
    (tmp_path / "status.jsonl").write_text('{"event": "progress"}\n{"event": "pro')
    assert list(detect._events(tmp_path)) == [{"event": "progress"}]


# --- the portal's store ---------------------------------------------------------------------


@pytest.fixture
def with_session(tmp_path, filled) -> Path:
    """A data folder whose portal has one notebook, and does not run now."""
    now = datetime.now(timezone.utc)
    resources = Resources("small", 3600)
    scene = LocalCatalog(filled / "scenes").get(SceneId(the(filled, "landsat-8")))
    common = {
        "owner": OWNER.id,
        "title": "Fires",
        "cluster": ClusterId("here"),
        "module": ModuleId("active-fire"),
        "resources": resources,
        "reachability": Reachability.REACHABLE,
        "created_at": now,
    }
    run = Run(
        id=RUN,
        module_version="1.0.0",
        params={},
        scenes=(RunScene(scene.id, SceneState.RUNNING),),
        state=RunState.RUNNING,
        session=SESSION,
        **common,
    )
    session = Session(id=SESSION, run=RUN, scenes=(scene.id,), state=SessionState.READY, **common)
    store = new_store(tmp_path / "portal.sqlite")
    Auth(store)
    store.work.add_session(session, run, [scene])
    store.close()
    return tmp_path


def test_sessions_are_listed_and_stopped(capsys, with_session):
    code, out, _ = admin(capsys, "sessions", "list", "--data", with_session)
    assert code == 0
    assert "Fires" in out
    code, out, _ = admin(capsys, "sessions", "stop", SESSION, "--data", with_session)
    assert code == 0
    assert "Stopping Fires" in out
    assert "does not run now" in out
    store = Store(with_session / "portal.sqlite")
    assert store.work.session(SESSION).stopping
    assert store.work.run(RUN).stopping
    (entry,) = store.audit.latest()
    assert (entry.action, entry.object, entry.via) == ("stop", SESSION, "admin.py")
    store.close()


def test_an_ended_session_is_listed_on_request_only(capsys, with_session):
    store = Store(with_session / "portal.sqlite")
    store.work.update_session(SESSION, SessionChange(state=SessionState.ENDED))
    store.close()
    _, out, _ = admin(capsys, "sessions", "list", "--data", with_session)
    assert out == "No notebook is running.\n"
    _, out, _ = admin(capsys, "sessions", "list", "--all", "--data", with_session, "--json")
    assert [session["id"] for session in json.loads(out)] == [SESSION]
    _, out, _ = admin(capsys, "sessions", "stop", SESSION, "--data", with_session)
    assert "had ended already" in out


def test_a_wrong_session_stops_nothing(capsys, with_session):
    code, _, err = admin(capsys, "sessions", "stop", SESSION, "nonsense", "--data", with_session)
    assert code == 1
    assert "no such notebook session" in err
    store = Store(with_session / "portal.sqlite")
    assert not store.work.session(SESSION).stopping
    store.close()


def test_a_token_is_one_that_the_api_takes(capsys, with_session):
    _, out, _ = admin(capsys, "token", "--data", with_session, "--name", "cron")
    store = Store(with_session / "portal.sqlite")
    assert Auth(store).tokens.user_of(out.strip()) == OWNER
    assert Auth(store).tokens.user_of(out.strip() + "x") is None
    store.close()


def test_a_link_leads_to_the_portal_that_runs(capsys, with_session):
    running = PortalRecord(os.getpid(), "http://localhost:8642", "/nowhere")
    with lock_data_folder(with_session, running):
        _, out, _ = admin(capsys, "link", "--data", with_session, "--json")
    link = json.loads(out)["link"]
    assert link.startswith("http://localhost:8642/")
    store = Store(with_session / "portal.sqlite")
    assert Auth(store).sign_in(link.split("key=")[1])
    store.close()
    _, out, _ = admin(capsys, "link", "--data", with_session)
    assert out.startswith("http://localhost:8501/")
    assert "once the portal runs" in out


#: Each command that looks into a portal, or changes what is in one.
IN_A_PORTAL = [
    ("sessions", "list"), ("sessions", "stop", SESSION), ("link",), ("token",), ("tokens", "list"),
    ("tokens", "withdraw", "x"), ("users", "list"), ("users", "block", "x"), ("audit",),
    ("announce", "add", "x"), ("announce", "list"), ("announce", "end", "1"), ("backup", "b"),
    ("scenes", "list"), ("scenes", "show", "x"), ("scenes", "remove", "x"), ("gate", "key", "far"),
    ("doctor",),
]  # fmt: skip


@pytest.mark.parametrize("command", IN_A_PORTAL, ids=" ".join)
def test_where_no_portal_has_run_nothing_is_made_up(capsys, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for data in (tmp_path / "nothing", tmp_path / "empty"):
        code, out, err = admin(capsys, *command, "--data", data)
        assert code == 1
        if command != ("doctor",):
            assert out == ""
            assert f"No portal has run on the data folder {data} yet; start ./run" in err
        elif not data.exists():
            assert f"BAD  data folder: there is none at {data}: name the portal's" in out
        assert [path for path in tmp_path.rglob("*") if path.name != "empty"] == []
        (tmp_path / "empty").mkdir(exist_ok=True)


def test_another_portal_than_the_one_that_runs_is_named_first(capsys, with_session, tmp_path):
    """Beside it one runs: it may be the one that was meant."""
    other = tmp_path / "other"
    other.mkdir()
    new_store(other / "portal.sqlite").close()
    (runtime := runtime_path(other)).mkdir(0o700)
    name_data_folder(runtime, other)
    running = PortalRecord(os.getpid(), "http://localhost:8642", str(runtime))
    there = f"The portal at http://localhost:8642 has --data {other}."
    mine = f"This is about the portal on {with_session}, which does not run."
    try:
        with lock_data_folder(other, running):
            for command in (("sessions", "list"), ("scenes", "list"), ("token",), ("doctor",)):
                _, out, err = admin(capsys, *command, "--data", with_session)
                assert mine in err
                assert there in err
                assert err.count("This is about") == 1
                _, out, err = admin(capsys, *command, "--data", other)
                assert "This is about" not in err
            code, out, err = admin(capsys, "sessions", "list", "--data", tmp_path / "nothing")
            assert (code, out) == (1, "")
            assert there in err
            with lock_data_folder(
                with_session, PortalRecord(os.getpid(), "http://localhost:8643", "/nowhere")
            ):
                _, _, err = admin(capsys, "sessions", "list", "--data", with_session)
                assert "This is about" not in err, "both run, and this one was named"
        _, _, err = admin(capsys, "sessions", "list", "--data", with_session)
        assert there not in err, "it has ended, and what it left behind counts no more"
    finally:
        shutil.rmtree(runtime)


# --- doctor ---------------------------------------------------------------------------------


def checks_of(data: Path) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(data)}


def test_doctor_looks_at_everything(capsys, tmp_path):
    code, out, _ = admin(capsys, "doctor", "--data", tmp_path, "--json")
    names = {check["name"] for check in json.loads(out)}
    assert {"packages", "ssh", "settings", "permissions", "disk", "port"} <= names
    assert code == (0 if all(check["ok"] for check in json.loads(out)) else 1)


def test_doctor_finds_what_others_may_read(tmp_path):
    tmp_path.chmod(0o700)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "here.pub").write_text("")
    (tmp_path / "keys" / "here").write_text("")
    (tmp_path / "keys" / "here").chmod(0o600)
    assert checks_of(tmp_path)["permissions"].ok
    (tmp_path / "keys" / "here").chmod(0o644)
    assert "keys/here" in checks_of(tmp_path)["permissions"].detail


def test_doctor_finds_a_port_in_use(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        (tmp_path / "settings.toml").write_text(f"port = {other.getsockname()[1]}")
        assert not checks_of(tmp_path)["port"].ok
    assert checks_of(tmp_path)["port"].ok


def test_doctor_finds_a_missing_ssh_and_a_wrong_setting(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "settings.toml").write_text("colour = 3")
    code, out, _ = admin(capsys, "doctor", "--data", tmp_path)
    assert code == 1
    assert "BAD  ssh: missing" in out
    assert "unknown setting 'colour'" in out


# --- the edge -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotFound, 1), (Conflict, 1), (InvalidProduct, 1), (InvalidInput, 2)],
)
def test_each_error_has_its_exit_code(error, code):
    assert exit_code(error("")) == code


@pytest.mark.parametrize("arguments", [(), ("scenes",), ("scenes", "add"), ("nonsense",)])
def test_wrong_usage_ends_with_2(capsys, arguments):
    code, out, err = admin(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: admin.py")


def test_columns_are_as_wide_as_their_longest_cell():
    assert table(("A", "B"), [("long", 1), ("x", 22)]) == "A     B\nlong  1\nx     22"


@pytest.mark.slow
def test_the_program_itself_runs_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, PROJECT / "admin.py", "token", "--data", "nothing"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert str(tmp_path / "nothing") in done.stderr
