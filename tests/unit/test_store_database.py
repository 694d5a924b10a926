"""Opening the store: private file, migrations, other versions, damage, full disk, races."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event

from lib.errors import Conflict, StorageFull, Unavailable
from lib.store import Store, database, upgrade
from lib.store.database import open_database
from lib.store.tables import metadata
from tests.fakes.stores import new_store
from tests.fakes.things import ALICE, BOB, add_run, add_session

PROJECT = Path(__file__).resolve().parents[2]


def test_the_file_is_private_and_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "with # and %41 ? in it.sqlite"
    Store(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    store = Store(path)
    store.people.ensure_user(ALICE)
    store.close()
    again = Store(path)
    assert again.people.user(ALICE.id) == ALICE
    again.close()


def test_the_migrations_make_exactly_the_tables(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "portal.sqlite")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []
    assert upgrade.scripts().get_current_head() == database.REVISION


def test_a_store_of_before_names_and_notes_keeps_its_work(tmp_path: Path) -> None:
    path = tmp_path / "portal.sqlite"
    store = new_store(path)
    store.people.ensure_user(ALICE)
    session, run = add_session(store), add_run(store)
    store.close()
    with sqlite3.connect(path) as raw:  # as version 0003 made it
        for table in ("runs", "sessions"):
            for column in ("note", "deleted_at"):
                raw.execute(f"alter table {table} drop column {column}")
        raw.execute("update alembic_version set version_num = '0003'")
    raw.close()
    assert not database.is_current(path)
    again = Store(path)
    assert again.work.sessions_of(ALICE.id) == (session,)
    assert {r.id: r.note for r in again.work.runs_of(ALICE.id)} == {run.id: "", session.run: ""}
    again.work.describe(run.id, "Named", "and noted")
    again.close()
    engine = open_database(path)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_store_of_a_newer_version_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "portal.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("update alembic_version set version_num = '9999'")
    raw.close()
    with pytest.raises(Conflict, match="newer version"):
        Store(path)


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "portal.sqlite"
    path.write_bytes(b"this is no database, but long enough to be looked at" * 100)
    with pytest.raises(Unavailable, match="is damaged"):
        Store(path)


def test_a_store_in_no_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be opened: No such file"):
        Store(tmp_path / "nowhere" / "portal.sqlite")


@pytest.mark.slow
def test_several_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lib.store import Store; "
        "Store(Path(sys.argv[1])).close()"
    )
    path = tmp_path / "portal.sqlite"
    together = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], cwd=PROJECT, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    said = [p.communicate(timeout=300)[1] for p in together]
    assert [p.returncode for p in together] == [0, 0, 0], said


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path / "portal.sqlite")
    store.people.ensure_user(ALICE)
    before = add_run(store)
    _limit(store, pages_more=2)
    with pytest.raises(StorageFull, match="Free some space"):
        add_run(store, bands=tuple(f"band{i}" for i in range(2000)))
    _limit(store, pages_more=100_000)
    after = add_run(store, bands=tuple(f"band{i}" for i in range(2000)))
    assert {r.id for r in store.work.runs_of(ALICE.id)} == {before.id, after.id}
    store.close()


def _limit(store: Store, *, pages_more: int) -> None:
    """What a full disk is to SQLite: it may have no more pages."""
    engine = store._engine
    engine.dispose()

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        used = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {used + pages_more}")

    event.listen(engine, "connect", limit)


def test_a_store_that_is_held_for_long_is_busy_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "portal.sqlite"
    store = Store(path)

    def impatient(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA busy_timeout = 50")

    store._engine.dispose()
    event.listen(store._engine, "connect", impatient)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="busy"):
        store.people.ensure_user(ALICE)
    assert store.people.user(ALICE.id) is None, "reading goes on"
    holder.execute("ROLLBACK")
    holder.close()
    store.people.ensure_user(ALICE)
    store.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    path = tmp_path / "portal.sqlite"
    Store(path).close()
    path.chmod(0o400)
    with pytest.raises(Unavailable):
        Store(path)


def test_our_own_faults_are_not_hidden(tmp_path: Path) -> None:
    from lib.store.database import transaction

    store = new_store(tmp_path / "portal.sqlite")
    with (
        pytest.raises(sqlalchemy.exc.OperationalError),
        transaction(store._engine) as connection,
    ):
        connection.exec_driver_sql("select * from nothing")
    store.close()


def test_what_one_person_adds_to_the_audit_log_is_bounded_and_counted(tmp_path: Path) -> None:
    store = new_store(tmp_path / "portal.sqlite")
    for n in range(1000):
        refused = {"result": "not-found", "detail": "There is no such run.", "via": "login:a"}
        store.audit.write(ALICE.id, "attempt-see", f"run-{n}", **refused)
        store.audit.write(ALICE.id, "open", "s", via="login:a")
    store.audit.write(BOB.id, "attempt-see", "run-1", result="not-found")
    store.audit.write(ALICE.id, "open", "s", via="login:b")
    assert len(store.audit.latest(1000)) == 100 + 1 + 2
    store.close()
    store = Store(tmp_path / "portal.sqlite")
    told = {(e.user, e.action, e.object, e.result, e.detail) for e in store.audit.latest(2)}
    assert told == {
        (ALICE.id, "attempt-see", "", "not-found", "(and 900 more like it)"),
        (ALICE.id, "open", "s", "ok", "(and 999 more like it)"),
    }
    store.close()


def test_the_audit_log_is_cut_and_newest_first(tmp_path: Path) -> None:
    store = new_store(tmp_path / "portal.sqlite")
    store.audit.write(ALICE.id, "stop", "x" * 5000, detail="y" * 5000, client="z" * 5000)
    time.sleep(0.01)
    store.audit.write("", "sign-in", "", result="refused")
    newest, oldest = store.audit.latest()
    assert (newest.action, newest.result, newest.user) == ("sign-in", "refused", "")
    assert (len(oldest.object), len(oldest.detail), len(oldest.client)) == (200, 1000, 100)
    assert newest.time > oldest.time
    assert len(store.audit.latest(1)) == 1
    store.close()
