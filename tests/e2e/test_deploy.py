"""What deploy/ holds beside the Caddyfile: units, example settings, a hook, logrotate."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from lib.config import settings
from lib.server import main
from tests.front_server import DEPLOY, needs
from tests.running import PROJECT

UNITS = ["scenebridge.service", "scenebridge-backup.service", "scenebridge-backup.timer"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, as they would be with the project here."""
    for name in UNITS:
        text = (DEPLOY / name).read_text().replace("/opt/scenebridge", str(PROJECT))
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", UNITS)
def test_systemd_can_read_the_units(installed: Path, name: str) -> None:
    done = subprocess.run(
        [needs("systemd-analyze"), "verify", "--man=no", installed / name],
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if "scenebridge" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize(("name", "most"), [(UNITS[0], 2.0), (UNITS[1], 2.0)])
def test_the_units_are_hardened(installed: Path, name: str, most: float) -> None:
    command = [needs("systemd-analyze"), "security", "--offline=true", "--no-pager"]
    done = subprocess.run([*command, installed / name], capture_output=True, text=True)
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    if exposure is None:
        pytest.skip("this systemd cannot judge a unit that is not loaded")
    assert float(exposure[1]) <= most


def test_the_unit_leaves_the_portal_the_time_that_it_needs() -> None:
    unit = (DEPLOY / UNITS[0]).read_text()
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1]) > main._STOP_S
    for line in ("Type=notify", "KillMode=process", "OOMPolicy=continue", "UMask=0077"):
        assert f"\n{line}\n" in unit


def test_the_example_of_settings_is_valid(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "settings.toml", tmp_path)
    chosen = settings.load(tmp_path)
    assert not chosen.single_user
    assert chosen.trusted_proxies == ("127.0.0.1",)
    assert len(chosen.provider) == 2


def test_logrotate_can_read_its_file(tmp_path: Path) -> None:
    program = needs("logrotate")
    file = tmp_path / "scenebridge"
    file.write_text((DEPLOY / "logrotate").read_text().replace("su scenebridge scenebridge", ""))
    file.chmod(0o644)
    state = tmp_path / "state"
    done = subprocess.run([program, "-d", "-s", state, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_renewed_certificate_is_given_to_the_front_server(tmp_path: Path) -> None:
    lineage, target = tmp_path / "live" / "scenebridge-notebooks", tmp_path / "tls"
    lineage.mkdir(parents=True)
    (lineage / "fullchain.pem").write_text("chain")
    (lineage / "privkey.pem").write_text("key")
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/asked"\n')
    (tmp_path / "systemctl").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SCENEBRIDGE_TLS": str(target),
        "SCENEBRIDGE_TLS_GROUP": str(os.getgid()),
    }
    hook = DEPLOY / "notebook-certificate"
    other = {**environment, "RENEWED_LINEAGE": str(tmp_path / "live" / "other")}
    subprocess.run([hook], env=other, check=True)
    assert not target.exists()
    subprocess.run([hook], env={**environment, "RENEWED_LINEAGE": str(lineage)}, check=True)
    assert sorted(f.name for f in target.iterdir()) == ["notebooks.key", "notebooks.pem"]
    assert (target / "notebooks.key").read_text() == "key"
    assert stat.S_IMODE((target / "notebooks.key").stat().st_mode) == 0o640
    assert (tmp_path / "asked").read_text() == "reload-or-restart caddy\n"
