"""`modules list`, and `detect MODULE PATH --out DIR`: a module on a product, no portal needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lib.cli.output import Commands, Output, command, plain, table
from lib.config import settings
from lib.config.offerings import complete_params, fit, load_offerings
from lib.errors import Conflict, InvalidInput, NotFound, Refused, SceneBridgeError
from lib.model import JsonObject, JsonValue, ModuleId, SceneId, json_number, json_object
from lib.scenes.local_catalog import LocalCatalog

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from lib.model import Module, Scene

_POLL_S = 0.2
_END_TIMEOUT_S = 10.0


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add both commands."""
    group = commands.add_parser("modules", help="the detection modules")
    part = group.add_subparsers(metavar="COMMAND", required=True)
    command(part, "list", _list, common, "List the modules that this portal offers.")
    about = "Run a module on a product, or on a scene of this portal."
    parser = command(commands, "detect", _detect, common, about)
    parser.add_argument("module", metavar="MODULE", help="as in: modules list")
    parser.add_argument("product", metavar="PATH", help="folder, .tar, .tar.gz, or a scene's id")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--params", type=Path, metavar="FILE", help="parameters as JSON")


def _list(_options: argparse.Namespace) -> Output:
    modules = load_offerings(settings.PROJECT).modules.values()
    value: JsonValue = [
        {
            "id": m.id,
            "version": m.version,
            "title": m.title,
            "summary": m.summary,
            "false_alarms": m.false_alarms,
            "needs": [{"platform": n.platform, "bands": list(n.bands)} for n in m.needs],
            "params": dict(m.params_schema),
        }
        for m in modules
    ]
    rows = [
        (m.id, m.version, ", ".join(sorted({n.platform for n in m.needs})), m.summary)
        for m in modules
    ]
    return Output(value, table(("ID", "VERSION", "READS", "WHAT IT FINDS"), rows))


def _detect(options: argparse.Namespace) -> Output:
    module = load_offerings(settings.PROJECT).module(ModuleId(options.module))
    params = complete_params(module, _read_params(options.params))
    out = options.out.expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Conflict(f"{out} is there already and not empty; choose another folder with --out.")
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scenebridge-")))
        scene = _scene(options.product, options.data.expanduser().resolve(), work)
        reasons = fit(module, [scene]).reasons
        if reasons:
            raise Refused(f"{module.title} cannot work on this scene: {' '.join(reasons)}")
        _write_input(scene, work / "in")
        (work / "params.json").write_text(json.dumps(params))
        code = _run(module, work, out, quiet=options.json)
    return _summary(scene, out, code)


def _read_params(file: Path | None) -> dict[str, JsonValue]:
    if file is None:
        return {}
    try:
        params = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"The parameters {file} cannot be read: {exc}.") from exc
    if not isinstance(params, dict):
        raise InvalidInput(f"The parameters {file} must be a JSON object.")
    return params


def _scene(product: str, data: Path, work: Path) -> Scene:
    """A scene of the portal by its id, else a product taken into a folder that is not kept."""
    path = Path(product).expanduser()
    if not path.exists() and (data / "scenes").is_dir():
        try:
            return LocalCatalog(data / "scenes").get(SceneId(product))
        except NotFound:
            raise NotFound(
                f"There is no product {path}, and the portal on {data} has no scene of that id."
            ) from None
    return LocalCatalog(work / "scenes").add(path)


def _write_input(scene: Scene, folder: Path) -> None:
    """The catalog that a module reads (docs/architecture.md)."""
    item = folder / scene.id / f"{scene.id}.json"
    item.parent.mkdir(parents=True)
    item.write_text(json.dumps(scene.item))
    catalog = {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "input",
        "description": "The scene to search.",
        "links": [{"rel": "item", "href": f"./{scene.id}/{scene.id}.json"}],
    }
    (folder / "catalog.json").write_text(json.dumps(catalog))


def _run(module: Module, work: Path, out: Path, *, quiet: bool) -> int:
    """The module as a process of its own; relays its progress. Its exit code."""
    entry = f"modules.{module.id.replace('-', '_')}"
    arguments = ["run", "--input", str(work / "in"), "--output", str(out)]
    arguments += ["--params", str(work / "params.json")]
    program = subprocess.Popen(
        [sys.executable, "-P", "-m", entry, *arguments],
        cwd=settings.PROJECT,
        env={**os.environ, "PYTHONPATH": str(settings.PROJECT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None,
    )
    told = 0
    try:
        while program.poll() is None:
            time.sleep(_POLL_S)
            events = list(_events(out))
            for event in events[told:]:
                if not quiet and (line := _progress(event)):
                    print(plain(line), flush=True)
            told = len(events)
    finally:
        if program.poll() is None:
            program.terminate()
            program.wait(_END_TIMEOUT_S)
    return program.returncode


def _events(out: Path) -> Iterator[JsonObject]:
    """The whole lines of `status.jsonl` so far."""
    try:
        text = (out / "status.jsonl").read_text("utf-8")
    except FileNotFoundError:
        return
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json_object(json.loads(line))


def _progress(event: JsonObject) -> str:
    match event["event"]:
        case "scene_started":
            return f"Searching {event['scene']}"
        case "progress":
            return f"  {json_number(event['fraction']):.0%}"
    return ""


def _summary(scene: Scene, out: Path, code: int) -> Output:
    """What was found, from what the module wrote.

    Raises:
        SceneBridgeError: the module failed; its own sentence.
    """
    events = list(_events(out))
    failed = next((str(e["message"]) for e in events if e["event"] == "scene_failed"), None)
    if failed is not None:
        raise SceneBridgeError(failed)
    if code != 0:
        raise SceneBridgeError(f"The module ended with exit code {code}; what it said is above.")
    folder = out / scene.id
    features = json.loads((folder / "detections.geojson").read_text("utf-8"))["features"]
    classes = Counter(feature["properties"]["class"] for feature in features)
    value: JsonObject = {
        "scene": scene.id,
        "objects": len(features),
        "classes": dict(classes),
        "out": str(out),
        "searched": next((e["searched"] for e in events if e["event"] == "scene_done"), {}),
    }
    counted = ", ".join(f"{number} {name}" for name, number in classes.most_common())
    text = f"{len(features)} objects in {scene.id}" + (f" ({counted})" if counted else "")
    return Output(value, f"{text}\nOutlines: {folder / 'detections.geojson'}\nAll files: {out}")
