"""Slurm's command lines and the batch script: quoting of hostile values, run by a real shell."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lib.errors import InvalidInput
from lib.jobs.interfaces import JobSpec
from lib.jobs.schedulers import make_scheduler
from lib.jobs.schedulers.slurm import commands

BIN = Path("/usr/bin")
SPEC = JobSpec(
    name="sb-1",
    argv=("/usr/bin/env", "-0"),
    env={"GREETING": "hello"},
    folder=Path("/scratch/s"),
    output=Path("/scratch/s/100%j.log"),
    scratch=Path("/tmp/x"),
    walltime_s=61,
    cores=3,
    memory_mb=2000,
    flags=("--partition=gpu", "--account=MST1"),
    comment="SceneBridge session for ada",
)
HOSTILE = [
    "it's",
    "'; touch hacked; '",
    '"$(touch hacked)"',
    "`touch hacked`",
    "a\nb\n#SBATCH --time=9\n",
    "\\",
    "\\'\\''",
    "$HOME ${IFS} $$ !! * ? [a] ~ & | > <",
    "-i",
    "",
    "\t é 漢 \x01 \x7f",
    "%j %% \r",
]


def run_script(spec: JobSpec, folder: Path, **env: str) -> list[bytes]:
    """As slurmd would run it."""
    (folder / "script").write_bytes(commands.script(spec))
    done = subprocess.run(
        ["/bin/sh", str(folder / "script")], cwd=folder, env=env, capture_output=True, check=True
    )
    assert not (folder / "hacked").exists()
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.parametrize("value", HOSTILE)
def test_values_of_the_environment_arrive_as_they_are(value: str, tmp_path: Path) -> None:
    spec = replace(SPEC, env={"VALUE": value})
    assert run_script(spec, tmp_path, HOME="/x") == [f"VALUE={value}".encode()]


@pytest.mark.parametrize("word", HOSTILE)
def test_words_of_the_command_arrive_as_they_are(word: str, tmp_path: Path) -> None:
    spec = replace(SPEC, argv=("/usr/bin/printf", "%s\\0", "first", word, "last"))
    assert run_script(spec, tmp_path) == [b"first", word.encode(), b"last"]


def test_a_command_with_an_equals_sign_is_no_variable(tmp_path: Path) -> None:
    program = tmp_path / "a=b"
    program.symlink_to("/usr/bin/printf")
    spec = replace(SPEC, argv=(str(program), "%s\\0", "yes"))
    assert run_script(spec, tmp_path) == [b"yes"]


def test_nothing_but_what_slurm_says_of_the_job_is_inherited(tmp_path: Path) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "3", "SLURM_JOB_ID": "7", "LEAKED": "x", "SLURM_CONF": "/x"}
    spec = replace(SPEC, env={"CUDA_VISIBLE_DEVICES": "0,1", "A B": "no shell name", "C": "d"})
    assert sorted(run_script(spec, tmp_path, **env)) == [
        b"C=d",
        b"CUDA_VISIBLE_DEVICES=3",
        b"SLURM_JOB_ID=7",
    ]
    assert run_script(spec, tmp_path, SLURM_RESTART_COUNT="2") == [
        b"SCENEBRIDGE_RESTARTS=2",
        b"C=d",
    ]
    assert run_script(spec, tmp_path) == [b"C=d"]  # no GPU was given: none is claimed


def test_the_submit_line() -> None:
    argv = commands.sbatch(BIN, SPEC, timeout_s=60)
    assert argv == (
        *("/usr/bin/timeout", "--kill-after=1", "60", "/usr/bin/sbatch"),
        *("--parsable", "--no-requeue", "--export=ALL", "--job-name=sb-1"),
        *("--comment=SceneBridge session for ada", "--chdir=/scratch/s"),
        *("--output=/scratch/s/100%%j.log", "--open-mode=append", "--nodes=1", "--ntasks=1"),
        *("--time=2", "--cpus-per-task=3", "--mem=2000M", "--partition=gpu", "--account=MST1"),
    )
    assert "--gres=gpu:2" in commands.sbatch(BIN, replace(SPEC, gpus=2), timeout_s=60)
    assert "hello" not in " ".join(argv)  # command lines are public on a login node


def test_the_environment_of_the_programs_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "other")
    monkeypatch.setenv("SLURM_CONF", "/other")
    assert set(commands.environment("")) == {"PATH", "LC_ALL", "TZ", "SLURM_TIME_FORMAT"}
    assert commands.environment("/etc/slurm/slurm.conf")["SLURM_CONF"] == "/etc/slurm/slurm.conf"


@pytest.mark.parametrize(
    "options",
    [
        {"bin": "usr/bin"},
        {"bin": "/usr/bin; rm"},
        {"conf": "slurm.conf"},
        {"poll_s": 0},
        {"poll_s": "often"},
        {"poll_s": True},
        {"settle_s": 0},
        {"settle_s": 1.5},
        {"slots": 2},
    ],
)
def test_bad_options_are_refused(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="policy"):
        make_scheduler("slurm", options, tmp_path)


def test_good_options_are_taken(tmp_path: Path) -> None:
    made = make_scheduler("slurm", {}, tmp_path)
    assert (made.poll_s, made.gone_after_s) == (1.5, 60)
    made = make_scheduler("slurm", {"poll_s": 3, "gone_after_s": 120}, tmp_path)
    assert (made.poll_s, made.gone_after_s) == (3.0, 120)
