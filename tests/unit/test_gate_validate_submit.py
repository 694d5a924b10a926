"""What a submit may ask for: every allow has its refuse."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lib.errors import InvalidInput, Refused, SceneBridgeError
from lib.gate.policy import Policy, parse
from lib.gate.validate_submit import validate
from lib.protocol.messages import JobKind, SubmitRequest
from tests.unit.test_gate_policy import GOOD

ID = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "b5.tif").write_bytes(b"II*")
    (tmp_path / "secret").write_bytes(b"key")
    return folder


@pytest.fixture
def policy(tmp_path: Path, data: Path) -> Policy:
    return parse({**copy.deepcopy(GOOD), "data_paths": [str(data)]}, tmp_path / "gate")


def item(href: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "Feature",
        "id": "LC08_1",
        "stac_version": "1.1.0",
        "properties": {"platform": "landsat-8"},
        "assets": {"nir08": {"href": href, "bands": [{"name": "B5"}], "type": "image/tiff"}},
        "links": [{"rel": "self", "href": "/etc/passwd"}],
        "evil": 1,
    }
    return {**found, **changes}


def request(href: str, **changes: Any) -> SubmitRequest:
    base = SubmitRequest(
        id=ID,
        kind=JobKind.SESSION,
        owner="ada",
        module="active-fire",
        module_version="1.0.0",
        params={"min_pixels": 2},
        items=[item(href)],
        preset="small",
        walltime_s=600,
        portal_origin="http://localhost:8501",
    )
    return dataclasses.replace(base, **changes)


def test_a_good_request_is_rebuilt(policy: Policy, data: Path) -> None:
    validated = validate(request(str(data / "b5.tif")), policy)
    (rebuilt,) = validated.items
    assert rebuilt["assets"]["nir08"]["href"] == str(data / "b5.tif")
    assert rebuilt["assets"]["nir08"]["bands"] == [{"name": "B5"}]
    assert "evil" not in rebuilt
    assert {link["href"] for link in rebuilt["links"]} == {"../catalog.json"}
    assert validated.readable == (data / "b5.tif",)


def test_a_link_within_the_data_is_resolved(policy: Policy, data: Path) -> None:
    (data / "link.tif").symlink_to(data / "b5.tif")
    validated = validate(request(str(data / "link.tif")), policy)
    assert validated.readable == (data / "b5.tif",)


@pytest.mark.parametrize("name", ["../secret", "out.tif", "sub/../../secret", "missing/../../x"])
def test_paths_that_lead_outside_are_refused(
    policy: Policy, data: Path, tmp_path: Path, name: str
) -> None:
    (data / "out.tif").symlink_to(tmp_path / "secret")
    with pytest.raises(Refused, match="no folder that jobs may read"):
        validate(request(f"{data}/{name}"), policy)


def test_a_folder_whose_name_begins_alike_is_outside(policy: Policy, data: Path) -> None:
    beside = Path(f"{data}-private")
    beside.mkdir()
    (beside / "x.tif").write_bytes(b"x")
    with pytest.raises(Refused):
        validate(request(str(beside / "x.tif")), policy)


def test_nothing_is_said_about_what_exists_outside(policy: Policy, tmp_path: Path) -> None:
    said = []
    for name in ("secret", "no-such-file"):
        with pytest.raises(Refused) as caught:
            validate(request(str(tmp_path / name)), policy)
        said.append(caught.value.message)
    assert said[0] == said[1]


def test_a_missing_file_or_a_folder_is_named(policy: Policy, data: Path) -> None:
    with pytest.raises(InvalidInput, match="LC08_1, asset nir08: its file is not there"):
        validate(request(str(data / "b6.tif")), policy)
    (data / "folder").mkdir()
    with pytest.raises(InvalidInput, match="not a file"):
        validate(request(str(data / "folder")), policy)


def test_https_and_staged_assets(policy: Policy) -> None:
    address = "https://data.example.org/b5.tif"
    validated = validate(request(address), policy)
    assert validated.items[0]["assets"]["nir08"]["href"] == address
    validated = validate(request("staged:"), policy)
    assert validated.items[0]["assets"]["nir08"]["href"] == "./nir08.tif"
    assert [(s.scene, s.asset) for s in validated.staged] == [("LC08_1", "nir08")]


@pytest.mark.parametrize(
    "href",
    ["https://evil.org/x", "http://data.example.org/x", "file:///etc/passwd", "relative.tif",
     "/vsicurl/https://data.example.org/x", "../../secret", "s3://bucket/key", "~/x"],
)  # fmt: skip
def test_other_addresses_are_refused(policy: Policy, href: str) -> None:
    with pytest.raises(Refused):
        validate(request(href), policy)


@pytest.mark.parametrize(
    "changes",
    [
        {"module": "other"},
        {"module_version": "1.0.1"},
        {"preset": "huge"},
        {"walltime_s": 59},
        {"walltime_s": 7201},
        {"portal_origin": "http://evil.org"},
    ],
)
def test_what_the_policy_does_not_offer_is_refused(
    policy: Policy, data: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(Refused):
        validate(request(str(data / "b5.tif"), **changes), policy)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../x"},
        {"id": ID.upper().replace("0", "A")},
        {"continue_from": ".."},
        {"owner": ""},
        {"owner": "a\nb"},
        {"title": "x" * 201},
        {"params": {"x": "y" * 70_000}},
        {"items": []},
    ],
)
def test_malformed_requests_are_named(policy: Policy, data: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        validate(request(str(data / "b5.tif"), **changes), policy)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ".."},
        {"id": "a/b"},
        {"id": ".hidden"},
        {"id": "status.jsonl"},
        {"id": "catalog.json"},
        {"id": "x" * 121},
        {"id": 5},
        {"assets": {}},
        {"assets": []},
        {"assets": {"../x": {"href": "staged:"}}},
        {"assets": {"B 5": {"href": "staged:"}}},
        {"assets": {"nir08": "staged:"}},
        {"assets": {"nir08": {}}},
        {"assets": {"nir08": {"href": 5}}},
        {"assets": {"nir08": {"href": "/a\0b"}}},
        {"assets": {"nir08": {"href": "staged:", "more": {"href": "/etc/passwd"}}}},
        {"assets": {"nir08": {"href": "staged:", "more": [{"x": {"href": "/etc/passwd"}}]}}},
        {"properties": {"x": "y" * 300_000}},
    ],
)
def test_items_that_are_not_understood_are_refused(policy: Policy, changes: dict[str, Any]) -> None:
    assert validate(request("staged:"), policy)
    with pytest.raises(SceneBridgeError):
        validate(request("x", items=[item("staged:", **changes)]), policy)


def test_alternate_addresses_are_left_out(policy: Policy) -> None:
    assets = {"nir08": {"href": "staged:", "alternate": {"s3": {"href": "s3://bucket/key"}}}}
    validated = validate(request("x", items=[item("x", assets=assets)]), policy)
    assert "alternate" not in validated.items[0]["assets"]["nir08"]


def test_a_scene_is_named_once(policy: Policy) -> None:
    with pytest.raises(InvalidInput, match="twice"):
        validate(request("x", items=[item("staged:"), item("staged:")]), policy)
