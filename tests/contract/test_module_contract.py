"""What docs/architecture.md promises of every module, over all modules that are offered."""

from __future__ import annotations

import ast
import json
import os
import resource
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import nbformat
import numpy as np
import pystac
import pytest
import rasterio
from nbclient import NotebookClient
from PIL import Image

from modulekit.cli import main
from tests.fixtures.module_scenes import CASES, Case, write_catalog, write_scene

PROJECT = Path(__file__).resolve().parents[2]
EVENT_KEYS = {
    "run_started": {"format", "module", "version", "scenes"},
    "scene_started": {"scene"},
    "progress": {"scene", "fraction"},
    "object": {
        *("scene", "n", "class", "score", "lon", "lat", "bbox", "pixels", "area_m2"),
        *("chip", "flags", "properties"),
    },
    "scene_done": {"scene", "objects", "shown", "searched"},
    "scene_failed": {"scene", "message"},
    "run_done": {"objects", "failed"},
}

every_module = pytest.mark.parametrize("case", CASES, ids=lambda c: c.module)


def manifest_of(case: Case) -> dict[str, Any]:
    folder = PROJECT / "modules" / case.module.replace("-", "_")
    return tomllib.loads((folder / "module.toml").read_text("utf-8"))


def input_of(case: Case, folder: Path, scenes: tuple[str, ...] = ("one",)) -> Path:
    for scene in scenes:
        write_scene(folder, scene, case.bands())
    return write_catalog(folder, scenes)


def run(case: Case, source: Path, output: Path, params: dict[str, Any] | None = None) -> int:
    arguments = ["run", "--input", str(source), "--output", str(output)]
    if params is not None:
        path = source / "params.json"
        path.write_text(json.dumps(params))
        arguments += ["--params", str(path)]
    return main(case.package, arguments)


def events_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "status.jsonl").read_text().splitlines()]


def test_every_offered_module_is_tested_here():
    offered = {
        tomllib.loads(p.read_text())["module"]
        for p in (PROJECT / "catalogs" / "modules").glob("*.toml")
    }
    assert offered == {case.module for case in CASES}


@every_module
def test_manifest_is_complete(case):
    manifest = manifest_of(case)
    assert manifest["id"] == case.module
    assert manifest["image"].endswith(f":{manifest['version']}")
    for key in ("title", "summary", "licence", "source", "score_meaning"):
        assert manifest[key].strip()
    for need in manifest["needs"]:
        assert need["platform"]
        assert need["bands"]
    schema = manifest["params"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    defaults = {name: p["default"] for name, p in schema["properties"].items()}
    jsonschema.Draft202012Validator(schema).validate(defaults)
    for spec in schema["properties"].values():
        assert spec["title"]
        assert spec["description"].endswith(".")


@every_module
def test_results_keep_the_contract(case, tmp_path):
    output = tmp_path / "out"
    assert run(case, input_of(case, tmp_path / "in", ("one", "two")), output) == 0
    manifest = manifest_of(case)
    events = events_of(output)
    for event in events:
        assert set(event) == {"event", "time", *EVENT_KEYS[event["event"]]}
    assert events[0]["event"] == "run_started"
    assert (events[0]["format"], events[0]["module"]) == (1, case.module)
    assert events[0]["scenes"] == ["one", "two"]
    assert events[-1]["event"] == "run_done"
    assert (events[-1]["objects"], events[-1]["failed"]) == (2 * case.objects, 0)
    for scene in ("one", "two"):
        check_scene(case, output / scene, [e for e in events if e.get("scene") == scene], manifest)


def check_scene(case: Case, folder: Path, events: list[Any], manifest: dict[str, Any]) -> None:
    kinds = [e["event"] for e in events if e["event"] != "progress"]
    assert kinds == ["scene_started", *["object"] * case.objects, "scene_done"]
    found = [e for e in events if e["event"] == "object"]
    assert [e["n"] for e in found] == list(range(1, case.objects + 1))
    scores = [e["score"] for e in found]
    assert scores == sorted(scores, reverse=True)
    for event in found:
        assert 0 <= event["score"] <= 1
        assert event["class"] in manifest["classes"]
        west, south, east, north = event["bbox"]
        assert west < event["lon"] < east
        assert south < event["lat"] < north
        with Image.open(folder / "chips" / f"{event['n']:04d}.webp") as chip:
            assert chip.format == "WEBP"
    done = events[-1]
    assert (done["objects"], done["shown"]) == (case.objects, case.objects)
    assert 0 < done["searched"]["valid_fraction"] <= 1
    check_geojson(case, folder, found)
    with (
        rasterio.open(folder / "mask.tif") as mask,
        rasterio.open(folder.parent.parent / "in" / folder.name / "green.tif") as scene,
    ):
        assert mask.dtypes == ("uint8",)
        assert (mask.shape, mask.transform, mask.crs) == (scene.shape, scene.transform, scene.crs)
        assert mask.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with Image.open(folder / "overview.webp") as overview:
        assert overview.format == "WEBP"
    item = pystac.Item.from_file(folder / f"{folder.name}.json")
    assert json.loads((folder / f"{folder.name}.json").read_text())["stac_version"] == "1.1.0"
    (derived,) = item.get_links("derived_from")
    source = pystac.Item.from_file(derived.get_absolute_href())
    assert source.id == folder.name
    assert {"detections", "mask", "overview", "log"} <= set(item.assets)
    for asset in item.assets.values():
        path = Path(asset.get_absolute_href())
        assert path.stat().st_size == asset.extra_fields["file:size"]


def check_geojson(case: Case, folder: Path, found: list[Any]) -> None:
    collection = json.loads((folder / "detections.geojson").read_text())
    assert collection["scene"] == folder.name
    assert collection["module"] == case.module
    assert set(collection["params"]) == set(manifest_of(case)["params"]["properties"])
    for feature, event in zip(collection["features"], found, strict=True):
        properties = feature["properties"]
        for key in ("n", "class", "score", "pixels", "area_m2", "flags", "properties"):
            assert properties[key] == event[key]
        assert properties["datetime"] == "2020-01-02T03:04:05Z"
        assert feature["bbox"] == event["bbox"]


@every_module
def test_a_broken_scene_fails_alone(case, tmp_path):
    source = input_of(case, tmp_path / "in", ("good", "cut", "gone", "grid", "text", "last"))
    name = f"{case.decisive_band}.tif"
    whole = (source / "cut" / name).read_bytes()
    (source / "cut" / name).write_bytes(whole[: len(whole) // 2])
    (source / "gone" / name).unlink()
    (source / "text" / "text.json").write_text("{")
    smaller = {n: b[:-1] for n, b in case.bands().items()}
    write_scene(tmp_path / "smaller", "grid", smaller)
    (tmp_path / "smaller" / "grid" / name).replace(source / "grid" / name)
    output = tmp_path / "out"
    assert run(case, source, output) == 3
    events = events_of(output)
    failed = {e["scene"]: e["message"] for e in events if e["event"] == "scene_failed"}
    assert set(failed) == {"cut", "gone", "grid", "text"}
    assert "damaged or cut short" in failed["cut"] or "no readable GeoTIFF" in failed["cut"]
    assert "is not there" in failed["gone"]
    assert "another grid" in failed["grid"]
    assert "not JSON" in failed["text"]
    for message in failed.values():
        assert message.endswith((".", "not JSON; write it again."))
        assert "Traceback" not in message
    done = {e["scene"]: e["objects"] for e in events if e["event"] == "scene_done"}
    assert done == {"good": case.objects, "last": case.objects}
    assert (events[-1]["objects"], events[-1]["failed"]) == (2 * case.objects, 4)
    for scene in failed:
        assert [p.name for p in (output / scene).iterdir()] == ["log.txt"]
    catalog = pystac.Catalog.from_file(output / "catalog.json")
    assert [item.id for item in catalog.get_items()] == [f"{s}.{case.module}" for s in done]


@every_module
def test_a_scene_that_does_not_fit_says_why(case, tmp_path):
    source = tmp_path / "in"
    bands = case.bands()
    write_scene(source, "other", bands, platform="sentinel-2a")
    write_scene(source, "level", bands, level="L3")
    write_scene(source, "less", {n: b for n, b in bands.items() if n != case.decisive_band})
    output = tmp_path / "out"
    assert run(case, write_catalog(source, ("other", "level", "less")), output) == 1
    failed = {e["scene"]: e["message"] for e in events_of(output) if e["event"] == "scene_failed"}
    assert "sentinel-2a" in failed["other"]
    assert "level L3" in failed["level"]
    assert case.decisive_band in failed["less"]


@every_module
@pytest.mark.parametrize(
    ("params", "named"), [({"strip_rows": 1}, "strip_rows"), ({"no_such": 1}, "no_such")]
)
def test_parameters_against_the_schema_are_refused(case, tmp_path, capsys, params, named):
    output = tmp_path / "out"
    assert run(case, input_of(case, tmp_path / "in"), output, params) == 2
    assert named in capsys.readouterr().err
    assert not output.exists()


@every_module
def test_no_catalog_is_a_usage_error(case, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert run(case, tmp_path / "in", tmp_path / "out") == 2
    assert "catalog.json" in capsys.readouterr().err


@every_module
def test_an_item_link_must_stay_in_the_input(case, tmp_path, capsys):
    source = input_of(case, tmp_path / "in")
    write_scene(tmp_path, "outside", case.bands())
    catalog = json.loads((source / "catalog.json").read_text())
    catalog["links"] = [{"rel": "item", "href": "../outside/outside.json"}]
    (source / "catalog.json").write_text(json.dumps(catalog))
    assert run(case, source, tmp_path / "out") == 2
    assert "outside its folder" in capsys.readouterr().err


@every_module
def test_the_strip_size_does_not_matter(case, tmp_path):
    source = input_of(case, tmp_path / "in")
    seen = []
    for rows in (64, 100, 16384):
        output = tmp_path / f"out{rows}"
        assert run(case, source, output, {"strip_rows": rows}) == 0
        with rasterio.open(output / "one" / "mask.tif") as mask:
            features = json.loads((output / "one" / "detections.geojson").read_text())["features"]
            seen.append((mask.read(1), features))
    for mask, features in seen[1:]:
        assert np.array_equal(mask, seen[0][0])
        assert features == seen[0][1]


@every_module
def test_a_second_run_replaces_the_first(case, tmp_path):
    source = input_of(case, tmp_path / "in")
    output = tmp_path / "out"
    (output / "one").mkdir(parents=True)
    (output / "one" / "mine.txt").write_text("keep me")
    assert run(case, source, output) == 0
    first = events_of(output)
    assert run(case, source, output, {"min_pixels": 10_000}) == 0
    events = events_of(output)
    assert events[-1]["objects"] == 0
    assert events[0]["time"] > first[0]["time"]
    assert list((output / "one" / "chips").iterdir()) == []
    assert (output / "one" / "mine.txt").read_text() == "keep me"


@every_module
def test_nothing_found_says_what_was_searched(case, tmp_path):
    output = tmp_path / "out"
    assert run(case, input_of(case, tmp_path / "in"), output, {"min_pixels": 10_000}) == 0
    (done,) = [e for e in events_of(output) if e["event"] == "scene_done"]
    assert (done["objects"], done["shown"]) == (0, 0)
    assert done["searched"]["pixels"] == 160 * 140
    assert json.loads((output / "one" / "detections.geojson").read_text())["features"] == []


def in_process(case: Case, source: Path, output: Path, **options: Any) -> Any:
    command = [sys.executable, "-m", case.package, "run"]
    command += ["--input", str(source), "--output", str(output)]
    return subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=300, **options
    )


@every_module
@pytest.mark.slow
def test_the_disk_fills_up_while_results_are_written(case, tmp_path):
    """A file size limit makes the operating system refuse to write, as a full disk does."""
    rng = np.random.default_rng(5)
    bands = case.bands()
    noisy = {n: b + rng.integers(0, 3000, b.shape, np.uint16) for n, b in bands.items()}
    source = tmp_path / "in"
    write_scene(source, "one", noisy)
    write_catalog(source, ("one",))

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    result = in_process(case, source, tmp_path / "out", preexec_fn=limit, env=env)
    assert result.returncode == 1, result.stderr
    (failed,) = [e for e in events_of(tmp_path / "out") if e["event"] == "scene_failed"]
    assert "disk or the quota is full" in failed["message"]
    assert [p.name for p in (tmp_path / "out" / "one").iterdir()] == ["log.txt"]
    assert "Traceback" not in result.stderr


@every_module
def test_an_output_folder_that_cannot_be_written(case, tmp_path, capsys):
    source = input_of(case, tmp_path / "in")
    (tmp_path / "file").write_text("not a folder")
    assert run(case, source, tmp_path / "file" / "out") == 2
    assert "choose another output folder" in capsys.readouterr().err


@every_module
def test_it_stands_alone(case):
    """The image of a module holds modules and modulekit only; start-up needs no compiler."""
    code = (
        "import sys\n"
        "from modulekit.cli import main\n"
        f"code = main({case.package!r}, ['info'])\n"
        "heavy = {'numba', 'rasterio', 'scipy', 'jsonschema', 'pandas'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)"
    )
    light = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True)
    assert light.returncode == 0, light.stderr
    for folder in ("modulekit", case.package.replace(".", "/")):
        for path in (PROJECT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
                assert not [n for n in names if n and n.split(".")[0] == "lib"], path


@every_module
def test_the_notebook_has_no_outputs(case):
    path = PROJECT / case.package.replace(".", "/") / manifest_of(case)["notebook"]
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not c.outputs for c in notebook.cells if c.cell_type == "code")


@every_module
@pytest.mark.slow
def test_run_all_in_the_notebook_finds_what_the_run_found(case, tmp_path, monkeypatch):
    work = tmp_path / "work"
    source = input_of(case, work / "in", ("one", "broken"))
    (source / "broken" / f"{case.decisive_band}.tif").write_bytes(b"II*\0 no more")
    (source / "params.json").write_text('{"min_pixels": 2}')
    path = PROJECT / case.package.replace(".", "/") / manifest_of(case)["notebook"]
    notebook = nbformat.read(path, as_version=4)
    check = "[len(scenes), params['min_pixels'], len(results), len(found), list(results.failed)]"
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    monkeypatch.setenv("SCENEBRIDGE_WORK", str(work))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # Streamlit sets it in its process
    command = [sys.executable, "-m", case.package, "run", "--input", str(source)]
    command += ["--output", str(work / "out"), "--params", str(source / "params.json")]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL) as beside:
        options = {"metadata": {"path": str(work)}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=options).execute()
    assert beside.returncode == 3
    assert notebook.cells[-1].outputs[0].data["text/plain"] == "[2, 2, 2, 2, ['broken']]"
    pictures = [o for c in notebook.cells for o in c.get("outputs", ()) if "data" in o]
    assert sum("image/png" in o.data for o in pictures) >= 2
