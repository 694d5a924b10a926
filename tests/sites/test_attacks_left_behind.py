"""What hostile code leaves in its session's folder for whoever opens it from outside.

Its results are fetched by the gate, its files come back in a continued session, and beside
them lies the report of where the notebook listens. Nothing there may lead elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid

import pytest

from lib.errors import NotFound, Refused, SceneBridgeError
from lib.model import JobState
from lib.protocol.messages import (
    ArtifactKind,
    CancelRequest,
    GetRequest,
    JobKind,
    PutRequest,
    SubmitRequest,
    Verb,
)
from tests.running import wait_for
from tests.sites.faults import Breakable
from tests.sites.lab import Lab
from tests.sites.standing import USER, Standing, launch, module_version
from tests.sites.thief import ANSWERED, TUNNEL, Thief

pytestmark = [pytest.mark.site]

SCENE = "LC08_A"
HOME = f"/home/{USER}"


# --- what it leaves for the gate -------------------------------------------------------------

KINDS = {
    ArtifactKind.CATALOG: "catalog.json",
    ArtifactKind.ITEM: f"{SCENE}/{SCENE}.json",
    ArtifactKind.DETECTIONS: f"{SCENE}/detections.geojson",
    ArtifactKind.MASK: f"{SCENE}/mask.tif",
    ArtifactKind.OVERVIEW: f"{SCENE}/overview.webp",
    ArtifactKind.SCENE_LOG: f"{SCENE}/log.txt",
    ArtifactKind.CHIP: f"{SCENE}/chips/0001.webp",
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
FRESH = """
import os, shutil
shutil.rmtree("/session/work/out", ignore_errors=True)
if os.path.islink("/session/work/out"): os.unlink("/session/work/out")
os.makedirs("/session/work/out/LC08_A/chips")
path = "/session/work/out/%s"
"""
#: Readable by the account, and none of the notebook's business.
SECRETS = (
    "/etc/passwd",
    f"{HOME}/.ssh/authorized_keys",
    f"{HOME}/.scenebridge/nchc/host_key",
    f"{HOME}/.scenebridge/nchc/policy.toml",
)


def get(thief: Thief, lab: Lab, kind: ArtifactKind) -> bytes:
    return thief.ask(Verb.GET, GetRequest(lab.id, kind, SCENE, 1))[1]


@EVERY_KIND
def test_an_honest_artifact_is_sent(thief: Thief, lab: Lab, kind: ArtifactKind) -> None:
    lab.run(FRESH % KINDS[kind] + "open(path, 'w').write('honest')")
    assert get(thief, lab, kind) == b"honest"


@EVERY_KIND
def test_a_link_in_place_of_an_artifact_leads_nowhere(
    site: Standing, thief: Thief, lab: Lab, kind: ArtifactKind
) -> None:
    control = f"{HOME}/.scenebridge/nchc/sessions/{lab.id}/control/token"
    for target in (*SECRETS, control, "/session/work/mine", "../../../control/token"):
        if target.startswith(("/etc", HOME)):
            assert site.login.run(["cat", target], USER).stdout  # the account itself may
        lab.run(FRESH % KINDS[kind] + f"os.symlink({target!r}, path)")
        with thief.audited("get"), pytest.raises(Refused):
            get(thief, lab, kind)


@pytest.mark.parametrize("level", ["", "/LC08_A", "/LC08_A/chips"])
def test_a_link_in_place_of_a_folder_leads_nowhere(thief: Thief, lab: Lab, level: str) -> None:
    lab.run(
        FRESH % "x"
        + f"folder = '/session/work/out{level}'\n"
        + "shutil.rmtree('/session/work/other', ignore_errors=True)\n"
        + "for p in ('LC08_A/chips', 'chips'): os.makedirs('/session/work/other/' + p)\n"
        + "for p in ('LC08_A/chips/0001.webp', 'chips/0001.webp', '0001.webp'):\n"
        + "    open('/session/work/other/' + p, 'w').write('elsewhere')\n"
        + "shutil.rmtree(folder); os.symlink('/session/work/other', folder)"
    )
    with pytest.raises((Refused, NotFound)):
        get(thief, lab, ArtifactKind.CHIP)


@pytest.mark.parametrize(
    "make",
    [
        "open(path + '2', 'w').write('x'); os.link(path + '2', path)",
        "os.mkfifo(path)",
        "os.makedirs(path)",
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind(path)",
        "open(path, 'w').truncate(400 * 2**20)",
        "open(path, 'w').write('x'); os.chmod(path, 0)",
    ],
    ids=["hard-link", "fifo", "folder", "socket", "sparse", "closed"],
)
def test_what_is_no_plain_small_file_is_refused_at_once(thief: Thief, lab: Lab, make: str) -> None:
    """It does not wait for it either: `thief.ask` gives up after a while."""
    lab.run(FRESH % KINDS[ArtifactKind.CHIP] + make)
    with pytest.raises(SceneBridgeError):
        get(thief, lab, ArtifactKind.CHIP)
    assert thief.may(TUNNEL)


def test_neither_files_elsewhere_nor_devices_can_be_put_there_at_all(lab: Lab) -> None:
    """So a second name of a file outside, or a device, never comes to the gate."""
    for attempt in (
        "os.link('/etc/passwd', path)",
        "os.link('/usr/bin/id', path)",
        "os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))",
        "os.mknod(path, 0o600 | 0o060000, os.makedev(254, 0))",
    ):
        said = lab.run(
            FRESH % "x" + f"try: {attempt}; print('made')\nexcept OSError as exc: print(exc.errno)"
        )
        assert said.strip() in {"18", "1", "30"}, (attempt, said)  # EXDEV, EPERM, EROFS


def test_a_file_beyond_the_session_s_allowance_cannot_be_made(lab: Lab) -> None:
    said = lab.run(
        FRESH % "x" + "try: open(path, 'w').truncate(2**40); print('made')\n"
        "except OSError as exc: print(exc.errno)"
    )
    assert said.strip() == "27"  # EFBIG


def test_an_artifact_swapped_for_a_link_all_the_time_never_leaks(thief: Thief, lab: Lab) -> None:
    lab.run(
        FRESH % KINDS[ArtifactKind.DETECTIONS]
        + f"""
import threading
open(path, "w").write("honest")
os.symlink("{HOME}/.ssh/authorized_keys", path + ".link")
stop = threading.Event()
def swap():
    while not stop.wait(0.0005):
        os.rename(path, path + ".aside"); os.rename(path + ".link", path); stop.wait(0.0005)
        os.rename(path, path + ".link"); os.rename(path + ".aside", path)
racer = threading.Thread(target=swap); racer.start()
"""
    )
    found = {"honest": 0, "refused": 0}
    try:
        for _ in range(60):
            try:
                assert get(thief, lab, ArtifactKind.DETECTIONS) == b"honest"
                found["honest"] += 1
            except (Refused, NotFound):
                found["refused"] += 1
    finally:
        lab.run("stop.set(); racer.join()")
    assert found["honest"] > 0, found
    assert found["refused"] > 0, found


# --- the endpoint ----------------------------------------------------------------------------


def report(site: Standing, job_id: str, host: str, port: int) -> None:
    """What the account itself, outside every container, may write: the worst case."""
    control = f"{HOME}/.scenebridge/nchc/sessions/{job_id}/control"
    text = json.dumps({"host": host, "port": port, "time": time.time()})
    put = 'cat > "$1/.fake" && mv "$1/.fake" "$1/endpoint.json"'
    site.login.run(["sh", "-c", put, "sh", control], USER, input=text)


def test_an_endpoint_rewritten_later_counts_for_nothing(
    site: Breakable, thief: Thief, lab: Lab
) -> None:
    record = site.gate_home / "sessions" / lab.id / "control/record.json"
    before = json.loads(record.read_text())
    for host, port in (("10.77.1.2", 22), ("10.77.1.12", 6818), ("127.0.0.1", 22)):
        report(site, lab.id, host, port)
        site.asked_again()
        assert thief.reach(TUNNEL, f"s-{lab.id}:1")[0][:1] == ANSWERED
        now = json.loads(record.read_text())
        assert (now["host"], now["port"]) == (before["host"], before["port"])


def test_an_endpoint_elsewhere_is_refused_before_it_is_ready(site: Breakable, thief: Thief) -> None:
    """Another host than the scheduler gave the job: not taken, and written down."""
    with site.api() as api:
        scene = api.get("/api/scenes").json()["features"][0]["id"]
        asked = {
            "scenes": [scene], "module": "active-fire", "cluster": "nchc",
            "resources": {"preset": "small", "walltime_s": 1800},
        }  # fmt: skip
        with thief.audited("endpoint"):
            job_id = api.post("/api/sessions", json=asked).json()["id"]
            control = site.gate_home / "sessions" / job_id / "control"
            wait_for("the folder", lambda: (control / "record.json").exists())
            report(site, job_id, "10.77.1.2", 22)
            thief.job(job_id, lambda job: job.state is JobState.RUNNING)
            site.asked_again()
            assert b"SSH-" not in thief.reach(TUNNEL, f"s-{job_id}:1", b"x\r\n")[0]
        ready = thief.job(job_id, lambda job: job.endpoint is not None)  # its own report
        assert json.loads((control / "record.json").read_text())["host"].startswith("10.77.1.1")
        assert thief.reach(TUNNEL, f"s-{ready.id}:1")[0][:1] == ANSWERED
        api.delete(f"/api/sessions/{job_id}").raise_for_status()
        thief.ended(job_id)


# --- traps for whoever comes after -------------------------------------------------------------

SHELL_TRAPS = (".bashrc", ".profile", ".bash_profile", ".bash_login", ".zshenv", ".ssh/rc",
               ".bash_logout", ".env", ".xprofile")  # fmt: skip
PYTHON_TRAPS = (
    "sitecustomize.py", "usercustomize.py", "jupyter_config.py", "jupyter_server_config.py",
    ".jupyter/jupyter_server_config.py", ".jupyter/jupyter_config.py", "asyncio.py", "json.py",
    ".ipython/profile_default/startup/00.py", ".ipython/profile_default/ipython_config.py",
    "lib/__init__.py", "modulekit/__init__.py", "modules/__init__.py",
    ".local/lib/python3.11/site-packages/usercustomize.py",
)  # fmt: skip


def test_nothing_in_a_continued_session_s_files_runs_outside_its_container(
    site: Standing, thief: Thief, tmp_path
) -> None:
    with site.api() as api:
        session = launch(api, site)["id"]
        job = thief.jobs()[session]
        with thief.local(TUNNEL, f"s-{job.id}:1") as socket:
            lab = Lab(job.id, socket, job.endpoint, tmp_path)
            spring = "touch /tmp/trap-was-sprung ~/trap-was-sprung"
            lab.run(_lay(SHELL_TRAPS, f"{spring}\n"))
            lab.run(_lay(PYTHON_TRAPS, f"import os; os.system({spring!r})\n"))
        api.delete(f"/api/sessions/{job.id}").raise_for_status()
        thief.ended(job.id)
    again = SubmitRequest(
        id=str(uuid.uuid4()), kind=JobKind.SESSION, owner="owner",
        module="active-fire", module_version=module_version("active_fire"), params={},
        items=[{"type": "Feature", "id": "S1", "assets": {"b": {"href": "staged:"}}}],
        preset="small", walltime_s=600, continue_from=job.id,
    )  # fmt: skip
    _stage(thief, again.id)
    thief.ask(Verb.SUBMIT, again)
    ready = thief.job(again.id, lambda status: status.endpoint is not None)
    work = site.gate_home / "sessions" / again.id / "work"
    assert (work / "sitecustomize.py").exists()  # the traps came along
    with thief.local(TUNNEL, f"s-{again.id}:1") as socket:
        assert Lab(again.id, socket, ready.endpoint, tmp_path).run("print(1)") == "1\n"
    thief.ask(Verb.CANCEL, CancelRequest(again.id))
    thief.ended(again.id)
    assert sprung(site) == []
    # The sibling: a shell of the account that did read one of them would be seen here.
    script = "/".join((HOME, ".scenebridge/nchc/sessions", again.id, "work", ".bashrc"))
    site.nodes[0].run(["bash", "-c", '. "$1"', "bash", script], USER)
    assert len(sprung(site)) == 2
    for host in (site.login, *site.nodes):
        host.run(["rm", "-f", "/tmp/trap-was-sprung", f"{HOME}/trap-was-sprung"])


def sprung(site: Standing) -> list[str]:
    found = [site.login.path(f"{HOME}/trap-was-sprung")]
    found += [host.path("/tmp/trap-was-sprung") for host in (site.login, *site.nodes)]
    return [str(path) for path in found if path.exists()]


def _lay(names: tuple[str, ...], text: str) -> str:
    return (
        f"import os\nfor name in {names!r}:\n"
        "    path = os.path.join('/session/work', name)\n"
        "    os.makedirs(os.path.dirname(path), exist_ok=True)\n"
        f"    open(path, 'w').write({text!r})\n"
        "    os.chmod(path, 0o755)\n"
    )


def _stage(thief: Thief, job_id: str) -> None:
    body = b"II*\0"
    thief.ask(Verb.PUT, PutRequest(job_id, "S1", "b", 4, hashlib.sha256(body).hexdigest()), body)
