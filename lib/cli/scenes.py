"""`scenes add|list|show|remove` and `samples get`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lib.cli.output import Commands, Output, command, plain, table
from lib.cli.store_access import portal_of, portal_or_new
from lib.errors import InvalidProduct
from lib.model import JsonObject, JsonValue, SceneId, SceneQuery, json_object
from lib.scenes.local_catalog import LocalCatalog

if TYPE_CHECKING:
    import argparse

    from lib.model import Scene

_ALL = 1_000_000


def add_to(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add both groups of commands."""
    group = commands.add_parser("scenes", help="the scenes of this portal")
    part = group.add_subparsers(metavar="COMMAND", required=True)
    add = command(part, "add", _add, common, "Take in products: folders, .tar or .tar.gz files.")
    add.add_argument("paths", metavar="PATH", type=Path, nargs="+")
    listing = command(part, "list", _list, common, "List scenes, newest first.")
    listing.add_argument("--platform", action="append", default=[], help="landsat-8, formosat-2")
    listing.add_argument("--text", default="", help="part of an id or title")
    listing.add_argument("--limit", type=int, default=_ALL, metavar="N")
    show = command(part, "show", _show, common, "Show one scene as its STAC item.")
    show.add_argument("scene", metavar="ID")
    remove = command(part, "remove", _remove, common, "Remove scenes and their files.")
    remove.add_argument("scenes", metavar="ID", nargs="+")
    group = commands.add_parser("samples", help="the sample scenes")
    part = group.add_subparsers(metavar="COMMAND", required=True)
    command(part, "get", _samples, common, "Take in the sample scenes that are not there yet.")


def catalog_of(options: argparse.Namespace) -> LocalCatalog:
    """The portal's own scenes."""
    return LocalCatalog(portal_of(options) / "scenes")


def _add(options: argparse.Namespace) -> Output:
    """Goes on after a product that cannot be read, so that one does not hold up the rest."""
    catalog = LocalCatalog(portal_or_new(options) / "scenes")
    added, broken = [], []
    for path in options.paths:
        try:
            scene = catalog.add(path)
        except InvalidProduct as exc:
            print(plain(exc.message), file=sys.stderr)
            broken.append({"path": str(path), "message": exc.message})
        else:
            added.append(scene)
    lines = [f"Added {scene.id}: {scene.title}" for scene in added]
    value: JsonObject = {"added": [_brief(scene) for scene in added], "failed": broken}
    return Output(value, "\n".join(lines), failed=bool(broken))


def _list(options: argparse.Namespace) -> Output:
    query = SceneQuery(platforms=tuple(options.platform), text=options.text, limit=options.limit)
    hits = catalog_of(options).search(query)
    rows = [
        (s.id, f"{s.time:%Y-%m-%d}", s.platform, s.level or "-", _cloud(s.cloud_cover), s.title)
        for s in hits.scenes
    ]
    text = table(("ID", "DATE", "PLATFORM", "LEVEL", "CLOUD", "TITLE"), rows)
    return Output([_brief(s) for s in hits.scenes], text if rows else "There are no such scenes.")


def _show(options: argparse.Namespace) -> Output:
    scene = catalog_of(options).get(SceneId(options.scene))
    west, south, east, north = scene.bbox
    assets = json_object(scene.item["assets"])
    lines = [
        f"{scene.id}: {scene.title}",
        f"taken      {scene.time:%Y-%m-%d %H:%M:%S} UTC by {scene.platform}",
        f"level      {scene.level or 'unknown'}",
        f"cloud      {_cloud(scene.cloud_cover)}",
        f"bands      {', '.join(sorted(scene.bands))}",
        f"bounds     west {west:.4f}, south {south:.4f}, east {east:.4f}, north {north:.4f}",
        f"synthetic  {'yes' if scene.synthetic else 'no'}",
        *(f"file       {json_object(asset)['href']}" for asset in assets.values()),
    ]
    return Output(dict(scene.item), "\n".join(lines))


def _remove(options: argparse.Namespace) -> Output:
    """All of them are looked up first: a wrong id removes nothing."""
    catalog = catalog_of(options)
    chosen = [catalog.get(SceneId(scene)) for scene in options.scenes]
    for scene in chosen:
        catalog.remove(scene.id)
    removed = [scene.id for scene in chosen]
    return Output({"removed": removed}, "\n".join(f"Removed {scene}" for scene in removed))


def _samples(options: argparse.Namespace) -> Output:
    from lib.scenes.samples import ingest_samples_into  # takes a second to load

    data = portal_or_new(options)

    def say(line: str) -> None:
        print(plain(line), file=sys.stderr if options.json else sys.stdout, flush=True)

    scenes = ingest_samples_into(data, say)
    return Output([_brief(scene) for scene in scenes], f"{len(scenes)} sample scenes are there.")


def _brief(scene: Scene) -> dict[str, JsonValue]:
    return {
        "id": scene.id,
        "title": scene.title,
        "time": scene.time.isoformat(),
        "platform": scene.platform,
        "level": scene.level,
        "cloud_cover": scene.cloud_cover,
        "bbox": list(scene.bbox),
        "bands": sorted(scene.bands),
        "synthetic": scene.synthetic,
    }


def _cloud(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.0f} %"
