"""What the thief of the portal's key asks of the gate in its own words: the typed verbs.

The gate's policy decides, whatever the portal would have sent. One honest request is the
allowed sibling of all the others, which differ from it in one thing each.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from lib.errors import Conflict, InvalidInput, NotFound, Refused, StorageFull
from lib.protocol.codec import encode
from lib.protocol.messages import (
    MAX_PUT_BYTES,
    ArtifactKind,
    CancelRequest,
    GetRequest,
    InfoRequest,
    JobKind,
    LogRequest,
    PutRequest,
    SubmitRequest,
    Verb,
)
from tests.sites.lab import Lab
from tests.sites.standing import GATE_HOME, USER, Standing, module_version
from tests.sites.thief import Thief

pytestmark = [pytest.mark.site]

IMAGE_DATA = "/home/data/scenes/blue.tif"
HOME = f"/home/{USER}"


@pytest.fixture(scope="module", autouse=True)
def data(site: Standing) -> Iterator[None]:
    """A folder that jobs may read, in which somebody has laid ways out of it."""
    login, folder = site.login, "/home/data"
    login.run(["install", "-d", "-m", "755", folder, f"{folder}/scenes"])
    login.run(["tee", IMAGE_DATA], input="II*")
    for name, target in (("file", "/etc/passwd"), ("folder", HOME), ("near", IMAGE_DATA)):
        login.run(["ln", "-sfn", target, f"{folder}/{name}"])
    login.run(["mkfifo", "-m", "644", f"{folder}/fifo"])
    yield
    login.run(["rm", "-rf", folder])


def item(href: str = IMAGE_DATA, scene: str = "S1", **asset: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": scene,
        "geometry": None,
        "properties": {"datetime": "2024-01-01T00:00:00Z"},
        "assets": {"blue": {"href": href, **asset}},
        "links": [],
    }


def request(**changes: Any) -> SubmitRequest:
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "kind": JobKind.RUN,
        "owner": "mallory",
        "module": "active-fire",
        "module_version": module_version("active_fire"),
        "params": {},
        "items": [item()],
        "preset": "small",
        "walltime_s": 600,
        **changes,
    }
    return SubmitRequest(**values)


def is_refused(thief: Thief, asked: SubmitRequest | bytes, job_id: str = "") -> None:
    """It is, in the audit too, and nothing comes of it: no record, no job."""
    with thief.audited("submit"), pytest.raises((Refused, InvalidInput, NotFound, Conflict)):
        thief.ask(Verb.SUBMIT, asked)
    job_id = job_id or getattr(asked, "id", "")
    jobs = thief.site.login.run(["squeue", "-h", "-t", "all", "-o", "%j"]).stdout
    assert not job_id or job_id not in jobs
    if re.fullmatch(r"[0-9a-f-]{36}", job_id):
        assert not (thief.site.gate_home / "sessions" / job_id / "control/record.json").exists()


def is_taken(thief: Thief, asked: SubmitRequest) -> str:
    """The job's line at the scheduler; the job is cancelled at once."""
    reply, _ = thief.ask(Verb.SUBMIT, asked)
    assert reply.created, reply
    job = thief.job(asked.id, lambda status: bool(status.job))
    shown = thief.site.login.run(["scontrol", "-o", "show", "job", job.job]).stdout
    thief.ask(Verb.CANCEL, CancelRequest(asked.id))
    thief.ended(asked.id)
    return shown


def test_an_honest_request_is_taken(thief: Thief) -> None:
    """The sibling of all below."""
    asked = request()
    shown = is_taken(thief, asked)
    assert asked.id in shown
    assert f"UserId={USER}(" in shown


@pytest.mark.parametrize(
    "changes",
    [
        {"module": "sh"},
        {"module": "../active-fire"},
        {"module": "modules.active_fire"},
        {"module_version": "0.0.0"},
        {"module_version": "latest"},
        {"preset": "huge"},
        {"preset": ""},
        {"preset": "--partition=gpu"},
        {"preset": "small --uid=0"},
        {"walltime_s": 3601},
        {"walltime_s": 10**12},
        {"walltime_s": 0},
        {"walltime_s": -600},
        {"owner": ""},
        {"owner": "a\n#SBATCH --uid=0"},
        {"owner": "a\0b"},
        {"title": "x\n--wrap=id"},
        {"title": "x" * 10_000},
        {"id": "../../../evil"},
        {"id": "--uid=0"},
        {"items": []},
        {"items": [item(), item()]},
        {"portal_origin": "https://evil.example"},
        {"portal_origin": "http://localhost:1 https://evil.example"},
        {"params": {"x": "y" * 2_000_000}},
    ],
    ids=lambda changes: ",".join(f"{k}={str(v)[:30]!r}" for k, v in changes.items()),
)
def test_what_the_policy_does_not_offer_is_refused(thief: Thief, changes: dict[str, Any]) -> None:
    is_refused(thief, request(**changes))


@pytest.mark.parametrize(
    "name", ["image", "sha256", "flags", "entry", "argv", "env", "runtime_options", "binds", "code"]
)
def test_there_is_no_word_for_image_command_or_flags(thief: Thief, name: str) -> None:
    """Nothing executable comes over the wire: the gate does not even know such fields."""
    asked = asdict(request())
    is_refused(thief, encode({**asked, name: "docker://evil.example/x"}), asked["id"])
    asked = asdict(request())
    broken = {**asked, "items": json.loads(json.dumps(asked["items"])), "preset": {name: "x"}}
    is_refused(thief, encode(broken), asked["id"])


def test_words_that_a_shell_or_a_scheduler_reads_are_only_text(
    site: Standing, thief: Thief
) -> None:
    trap = "$(touch /tmp/pwned)`touch /tmp/pwned`'; touch /tmp/pwned; '\" --uid=0 %j \\"
    before = site.login.run(["ls", "-a", HOME]).stdout
    asked = request(
        owner=trap,
        title=f"--wrap=id {trap}",
        params={trap: trap, "--output": "/etc/passwd"},
        items=[item(scene="S1-touch", title=trap, **{"--x": trap})],
    )
    shown = is_taken(thief, asked)
    assert f"UserId={USER}({site.login.account(USER)[0]})" in shown
    assert "Partition=dev" in shown
    assert "touch /tmp/pwned" in shown  # as the comment that it is
    for host in (site.login, *site.nodes):
        assert not host.path("/tmp/pwned").exists(), host.name
    assert site.login.run(["ls", "-a", HOME]).stdout == before


@pytest.mark.parametrize(
    "href",
    [
        "/etc/passwd",
        f"{HOME}/.ssh/authorized_keys",
        f"{HOME}/{GATE_HOME}/host_key",
        f"{HOME}/{GATE_HOME}/sessions",
        f"/home/data/../{USER}/.ssh/authorized_keys",
        f"/home/data/scenes/../../{USER}/.profile",
        "/home/data/file",
        "/home/data/folder/.ssh/authorized_keys",
        "/home/data/fifo",
        "/home/data/scenes",
        "/home/data",
        "/home/data-base/x.tif",
        "/proc/self/environ",
        "/proc/self/root/home/data/../../etc/passwd",
        "/dev/zero",
        "file:///home/data/scenes/blue.tif",
        "/vsicurl/https://evil.example/x.tif",
        "https://evil.example/x.tif",
        "http://127.0.0.1:22022/",
        "https://nchc-login@evil.example/x.tif",
        "s3://bucket/x.tif",
        "home/data/scenes/blue.tif",
        "",
        "staged:",
    ],
)
def test_files_and_addresses_outside_are_refused(thief: Thief, href: str) -> None:
    """Not told apart by whether they exist: outside, nothing is said."""
    is_refused(thief, request(items=[item(href)]))


def test_a_link_that_stays_inside_is_read(thief: Thief) -> None:
    """The sibling: a link is judged by where it leads."""
    asked = request(items=[item("/home/data/near")])
    is_taken(thief, asked)
    written = thief.site.gate_home / "sessions" / asked.id / "work/in/S1/S1.json"
    assert json.loads(written.read_text())["assets"]["blue"]["href"] == IMAGE_DATA


def test_a_second_address_in_an_asset_is_dropped_or_refused(thief: Thief) -> None:
    other = {"href": "/etc/passwd"}
    is_refused(thief, request(items=[item(more={"deep": [other]})]))
    asked = request(items=[item(alternate={"local": other})])
    is_taken(thief, asked)
    written = thief.site.gate_home / "sessions" / asked.id / "work/in/S1/S1.json"
    assert "/etc/passwd" not in written.read_text()


@pytest.mark.parametrize("scene", ["..", "../x", ".ssh", "a/b", "", "catalog.json", "params.json"])
def test_a_scene_s_name_is_no_path(thief: Thief, scene: str) -> None:
    is_refused(thief, request(items=[item(scene=scene)]))


def test_another_s_session_is_not_continued(thief: Thief, lab: Lab) -> None:
    """Nor a running one by its owner, nor what is no session.

    The thief may *say* that it is that owner: the gate's check assumes an honest portal.
    """
    kind = JobKind.SESSION
    is_refused(thief, request(kind=kind, continue_from=lab.id))
    is_refused(thief, request(kind=kind, continue_from=str(uuid.uuid4())))
    is_refused(thief, request(kind=kind, continue_from="../../.ssh"))
    with pytest.raises(Conflict, match="still running"):
        thief.ask(Verb.SUBMIT, request(kind=kind, continue_from=lab.id, owner="owner"))


def test_only_what_is_not_submitted_yet_takes_files(thief: Thief, lab: Lab) -> None:
    body = b"x" * 100

    def put(job_id: str, scene: str = "S1", asset: str = "blue", size: int = 100) -> None:
        sent = PutRequest(job_id, scene, asset, size, hashlib.sha256(body).hexdigest())
        thief.ask(Verb.PUT, sent, body)

    new = str(uuid.uuid4())
    put(new)  # the sibling
    staged = thief.site.gate_home / "sessions" / new / "control/staged/S1/blue"
    assert staged.read_bytes() == body
    with pytest.raises(Conflict):
        put(lab.id)
    for job_id in ("../../.ssh", "", f"{new}/..", lab.id.upper()):
        with pytest.raises(InvalidInput):
            put(job_id)
    for scene, asset in (("..", "blue"), ("S1/../..", "blue"), ("S1", "../x"), ("S1", ".x")):
        with pytest.raises(InvalidInput):
            put(new, scene, asset)
    for size in (0, -1, MAX_PUT_BYTES + 1):
        with pytest.raises(InvalidInput):
            put(new, size=size)
    with pytest.raises(StorageFull):
        put(new, size=501 * 2**20)
    with pytest.raises(InvalidInput, match="damaged"):
        thief.ask(Verb.PUT, PutRequest(new, "S1", "red", 100, "0" * 64), body)
    assert [path.name for path in staged.parent.iterdir()] == ["blue"]
    is_taken(thief, request(id=new, items=[item("staged:")]))


def test_what_is_asked_of_a_job_is_no_path_either(thief: Thief, lab: Lab) -> None:
    for job_id in ("../../.ssh", "", "..", str(uuid.uuid4())):
        for verb, asked in (
            (Verb.CANCEL, CancelRequest(job_id)),
            (Verb.LOG, LogRequest(job_id)),
            (Verb.GET, GetRequest(job_id, ArtifactKind.CATALOG)),
        ):
            with pytest.raises((NotFound, InvalidInput)):
                thief.ask(verb, asked)
    for scene in ("..", "../../control", "S9", "LC08_A/../.."):
        with pytest.raises(NotFound):
            thief.ask(Verb.GET, GetRequest(lab.id, ArtifactKind.ITEM, scene))
    asked = asdict(GetRequest(lab.id, ArtifactKind.ITEM, "LC08_A"))
    for broken in ({"artifact": "../control/token"}, {"path": "/etc/passwd"}, {"n": "1; id"}):
        with pytest.raises(InvalidInput):
            thief.ask(Verb.GET, encode({**asked, **broken}))


@pytest.mark.parametrize(
    "line",
    [b"\n", b"null\n", b"[" * 100_000 + b"\n", b'{"id": 1}\n', b"\xff\xfe\n", b"x" * (5 << 20)],
    ids=["empty", "null", "deep", "type", "bytes", "long"],
)
def test_what_is_no_request_is_refused(thief: Thief, line: bytes) -> None:
    with pytest.raises(InvalidInput):
        thief.ask(Verb.SUBMIT, line)
    assert thief.ask(Verb.INFO, InfoRequest())[0].cluster == "nchc"
