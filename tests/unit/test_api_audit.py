"""The audit log as JSON lines: for administrators in a browser, and nobody else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path

import httpx
import pytest

from lib.auth import OWNER
from lib.model import User
from tests.fakes.described import check
from tests.fakes.reconciler_harness import hurry
from tests.fakes.site import ALICE, Site, serve_site


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    hurry(monkeypatch)
    async with serve_site(tmp_path) as it:
        it.world.store.audit.write("alice", "launch", "a", detail="first 100%")
        it.world.store.audit.write("bob", "stop", "b", result="refused", client="192.0.2.7")
        it.world.store.audit.write("alice", "stop", "c\nd", detail='"quoted" é')
        yield it


def browser(here: Site, user: User) -> httpx.AsyncClient:
    client = here.client(cookie=here.login(user))
    client.event_hooks = {"response": [check]}
    return client


async def lines(client: httpx.AsyncClient, query: str) -> list[dict[str, object]]:
    answer = await client.get(f"/api/audit.jsonl?{query}")
    assert answer.status_code == 200, answer.text
    assert "attachment" in answer.headers["content-disposition"]
    assert answer.headers["cache-control"] == "no-store"
    return [json.loads(line) for line in answer.text.split("\n") if line]


@pytest.mark.parametrize(
    ("query", "objects"),
    [
        ("user=alice", ["a", "c\nd"]),
        ("action=stop", ["b", "c\nd"]),
        ("refused=1", ["b"]),
        ("refused=0&user=bob", ["b"]),
        ("text=100%25", ["a"]),
        ("text=192.0.2", ["b"]),
        ("since={today}&until={today}&action=stop", ["b", "c\nd"]),
        ("until=2001-01-01", []),
        ("since=9999-12-31", []),
        ("until=9999-12-31&since=0001-01-01&action=launch", ["a"]),
        ("user=&action=&since=&text=launch&refused=", ["a"]),
    ],
)
async def test_an_administrator_gets_what_matches(here: Site, query: str, objects: list[str]):
    today = datetime.now(timezone.utc).date().isoformat()  # now: a long run passes midnight
    async with browser(here, OWNER) as client:
        found = await lines(client, query.format(today=today))
    # The line about this very export holds the text that it looked for.
    assert [line["object"] for line in found if line["action"] != "audit-export"] == objects


async def test_a_line_says_what_somebody_is_called_and_is_found_by_it(here: Site) -> None:
    async with browser(here, OWNER) as client:
        found = await lines(client, "text=ALICE&action=launch")
        assert [(line["user"], line["name"]) for line in found] == [("alice", "Alice")]
        assert str(found[0]["time"]).endswith("Z"), "in UTC, and it says so"
        here.world.store.people.came(
            ALICE.id, name="Somebody Else", provider="test", subject="alice", claims={}
        )
        found = await lines(client, "text=body el&action=launch")
        assert [line["name"] for line in found] == ["Somebody Else"]
        assert await lines(client, "text=body el&action=launch&user=bob") == []


async def test_the_export_is_logged(here: Site) -> None:
    async with browser(here, OWNER) as client:
        await lines(client, "text=needle")
        (entry,) = await lines(client, "action=audit-export&text=needle")
    assert entry["user"] == OWNER.id
    assert str(entry["via"]).startswith("login:")


@pytest.mark.parametrize("query", ["since=yesterday", "until=2019-02-30", "refused=maybe"])
async def test_a_wrong_filter_is_said(here: Site, query: str) -> None:
    async with browser(here, OWNER) as client:
        answer = await client.get(f"/api/audit.jsonl?{query}")
    assert answer.status_code == 422
    assert query.partition("=")[0] in answer.json()["error"]["message"]


async def test_nobody_else_gets_it(here: Site) -> None:
    async with browser(here, ALICE) as client:
        answer = await client.get("/api/audit.jsonl")
    assert answer.status_code == 403
    assert "administrators" in answer.json()["error"]["message"]
    async with here.client() as client:
        assert (await client.get("/api/audit.jsonl")).status_code == 401


async def test_a_token_never_administers(here: Site) -> None:
    async with here.client(OWNER) as client:
        answer = await client.get("/api/audit.jsonl")
    assert answer.status_code == 403
    assert "first 100%" not in answer.text
    assert here.world.store.audit.latest(1)[0].action != "audit-export"
