"""Files that the portal sends before a job, through real ssh."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from lib.errors import Conflict, InvalidInput, StorageFull
from lib.gate.job_record import RECORD, SessionFolders
from lib.gate.policy import load, parse
from lib.gate.staging import Staging
from lib.model import EndReason
from lib.protocol.messages import JobKind, PutRequest, Verb
from tests.fakes.things import new_id
from tests.fixtures.gate_site import GateSite, running_site
from tests.unit.test_gate_policy import GOOD

DATA = os.urandom(700_000)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateSite]:
    yield from running_site(tmp_path_factory.mktemp("staging"), max_disk_mb=2)


def put_request(job: str, data: bytes = DATA, **changes: object) -> PutRequest:
    values: dict[str, object] = {
        "id": job, "scene": "S1", "asset": "nir08", "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(), **changes,
    }  # fmt: skip
    return PutRequest(**values)  # type: ignore[arg-type]


def test_a_staged_asset_lies_beside_its_item(site: GateSite) -> None:
    job = new_id()
    reply, _ = site.ask(Verb.PUT, put_request(job), DATA)
    assert reply.stored
    site.ask(Verb.PUT, put_request(job), DATA)  # idempotent
    item = site.item("S1")
    item["assets"] = {"nir08": {"href": "staged:"}}
    status = site.submit(JobKind.RUN, id=job, items=[item])
    folder = site.work(job) / "in" / "S1"
    written = json.loads((folder / "S1.json").read_text())
    assert (folder / written["assets"]["nir08"]["href"]).read_bytes() == DATA
    assert site.ended(status.id).end_reason is EndReason.FINISHED
    with pytest.raises(Conflict, match="submitted already"):
        site.ask(Verb.PUT, put_request(job), DATA)


@pytest.mark.parametrize("sent", [DATA[:-1], b"", DATA[:-1] + b"x"])
def test_a_file_that_arrives_damaged_is_not_kept(site: GateSite, sent: bytes) -> None:
    job = new_id()
    with pytest.raises(InvalidInput, match="damaged"):
        site.ask(Verb.PUT, put_request(job), sent)
    item = site.item("S1")
    item["assets"] = {"nir08": {"href": "staged:"}}
    with pytest.raises(InvalidInput, match="was not sent"):
        site.submit(id=job, items=[item])
    assert list(site.control(job).rglob("*nir08*")) == []


def test_what_follows_the_file_is_not_part_of_it(site: GateSite) -> None:
    job = new_id()
    assert site.ask(Verb.PUT, put_request(job), DATA + b"more")[0].stored
    assert (site.control(job) / "staged" / "S1" / "nir08").read_bytes() == DATA


@pytest.mark.parametrize(
    "changes",
    [{"scene": "../S1"}, {"scene": ".."}, {"asset": "../x"}, {"asset": "a/b"}, {"size": 0},
     {"size": -1}, {"size": 2**50}, {"id": "../x"}],
)  # fmt: skip
def test_names_and_sizes_are_checked(site: GateSite, changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        site.ask(Verb.PUT, put_request(new_id(), **changes), DATA)


def test_a_sessions_allowance_is_kept(site: GateSite) -> None:
    job = new_id()
    for asset in ("blue", "green"):
        site.ask(Verb.PUT, put_request(job, asset=asset), DATA)
    with pytest.raises(StorageFull, match="may use 2 MB"):
        site.ask(Verb.PUT, put_request(job, asset="red"), DATA)


def test_what_was_never_submitted_is_thrown_away(site: GateSite) -> None:
    job, fresh = new_id(), new_id()
    for name in (job, fresh):
        site.ask(Verb.PUT, put_request(name), DATA)
    old = time.time() - 2 * 86_400
    folder = site.home / "sessions" / job
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (old, old))
    Staging(SessionFolders(site.home), load(site.home / "policy.toml", site.home)).forget_old()
    assert not folder.exists()
    assert Path(site.home / "sessions" / fresh).exists()


# --- what happens while a file arrives ---------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> SessionFolders:
    (tmp_path / "sessions").mkdir()
    return SessionFolders(tmp_path)


@pytest.fixture
def staging(folders: SessionFolders) -> Staging:
    """One megabyte per session."""
    data = {**copy.deepcopy(GOOD), "limits": {"max_disk_mb": 1}}
    return Staging(folders, parse(data, folders.state_dir))


async def meanwhile(event: Callable[[], Awaitable[object]]) -> AsyncIterator[bytes]:
    """`DATA`, with something that happens after it was let in and before it comes."""
    await event()
    yield DATA


async def nothing() -> None:
    """Nothing happens."""


def staged(folders: SessionFolders, job: str) -> list[str]:
    return sorted(file.name for file in (folders.control(job) / "staged").glob("*/*"))


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def test_files_side_by_side_do_not_pass_the_allowance_together(
    staging: Staging, folders: SessionFolders
) -> None:
    """Each fits alone; what was announced counts before it lies there."""
    job, small = new_id(), DATA[:400_000]

    async def another() -> None:
        with pytest.raises(StorageFull, match="may use 1 MB"):
            await staging.put(put_request(job, small, asset="green"), pieces(small))

    await staging.put(put_request(job), meanwhile(another))
    assert staged(folders, job) == ["nir08"]
    await staging.put(put_request(job, DATA[:300_000], asset="red"), pieces(DATA[:300_000]))
    assert staged(folders, job) == ["nir08", "red"]


async def test_all_that_waits_has_a_cap_together(folders: SessionFolders) -> None:
    limits = {"max_disk_mb": 1, "max_staged_mb": 1}
    staging = Staging(folders, parse({**copy.deepcopy(GOOD), "limits": limits}, folders.state_dir))
    first, second, small = new_id(), new_id(), DATA[:400_000]

    async def another() -> None:
        with pytest.raises(StorageFull, match=r"1 MB on this cluster \(max_staged_mb"):
            await staging.put(put_request(second, small), pieces(small))

    await staging.put(put_request(first), meanwhile(another))
    await another()
    assert not folders.session(second).exists()
    (folders.control(first) / RECORD).write_text("{}")  # submitted: the job's own allowance holds
    await staging.put(put_request(second, small), pieces(small))
    assert staged(folders, second) == ["nir08"]


async def test_two_who_send_one_asset_are_each_told_of_their_own_bytes(
    staging: Staging, folders: SessionFolders
) -> None:
    """The second comes whole while the first is half there, and then the first goes on."""
    job, one, other = new_id(), b"1" * 200_000, b"2" * 200_000
    lies = folders.control(job) / "staged" / "S1" / "nir08"

    async def halves(*, damaged: bool) -> AsyncIterator[bytes]:
        yield one[:100_000]
        await staging.put(put_request(job, other), pieces(other))
        assert lies.read_bytes() == other
        yield other[100_000:] if damaged else one[100_000:]

    with pytest.raises(InvalidInput, match="damaged"):
        await staging.put(put_request(job, one), halves(damaged=True))
    assert lies.read_bytes() == other
    await staging.put(put_request(job, one), halves(damaged=False))
    assert lies.read_bytes() == one
    assert staged(folders, job) == ["nir08"]


async def test_the_sum_is_of_what_lies_in_the_file(
    staging: Staging, folders: SessionFolders
) -> None:
    job = new_id()

    async def spoil() -> None:
        (part,) = (folders.control(job) / "staged" / "S1").iterdir()
        part.write_bytes(b"x" * (len(DATA) + 1))

    with pytest.raises(InvalidInput, match="damaged"):
        await staging.put(put_request(job), meanwhile(spoil))
    assert staged(folders, job) == []


async def test_only_what_a_stopped_gate_left_half_received_is_removed(
    staging: Staging, folders: SessionFolders
) -> None:
    job = new_id()

    async def tidy() -> None:
        (left,) = (folders.control(job) / "staged" / "S1").glob(".nir08.*.part")
        left.with_name(".nir08.part").write_bytes(b"of an older gate")
        left.with_name(".blue.0123.part").write_bytes(b"of a killed one")
        staging.forget_old()
        assert staged(folders, job) == [left.name]

    await staging.put(put_request(job), meanwhile(tidy))
    assert staged(folders, job) == ["nir08"]


async def test_nothing_is_added_to_a_job_that_was_submitted_meanwhile(
    staging: Staging, folders: SessionFolders
) -> None:
    job = new_id()

    async def submit() -> None:
        (folders.control(job) / RECORD).write_text("{}")

    with pytest.raises(Conflict, match="submitted already"):
        await staging.put(put_request(job), meanwhile(submit))
    assert staged(folders, job) == []


async def test_only_what_nobody_submitted_or_still_sends_is_forgotten(
    staging: Staging, folders: SessionFolders
) -> None:
    submitted, under_way, left = new_id(), new_id(), new_id()
    for job in (submitted, under_way, left):
        await staging.put(put_request(job), meanwhile(nothing))
    (folders.control(submitted) / RECORD).write_text("{}")
    old = time.time() - 2 * 86_400
    for job in (submitted, under_way, left):
        folder = folders.sessions / job
        for path in (*folder.rglob("*"), folder):
            os.utime(path, (old, old))
    os.utime(folders.control(under_way) / "staged" / "S1" / "nir08")
    staging.forget_old()
    assert {folder.name for folder in folders.sessions.iterdir()} == {submitted, under_way}
