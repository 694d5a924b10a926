"""One suite for every runtime; see the obligations in `lib.jobs.ports.Runtime`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.errors import InvalidInput
from lib.jobs.ports import Runtime, Task
from lib.jobs.runtimes import make_runtime
from lib.model import Isolation


def _process(code: Path) -> Runtime:
    return make_runtime("process", {"python": sys.executable, "code": str(code)})


RUNTIMES: dict[str, Callable[[Path], Runtime]] = {"process": _process}


@pytest.fixture(params=list(RUNTIMES))
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Runtime:
    code = tmp_path / "code"
    code.mkdir()
    (code / "told.py").write_text(
        "import json, os, sys\n"
        "open(sys.argv[1], 'w').write(json.dumps("
        "{'env': dict(os.environ), 'cwd': os.getcwd(), 'args': sys.argv[2:]}))\n"
    )
    return RUNTIMES[request.param](code)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    work, private = tmp_path / "work", tmp_path / "private"
    work.mkdir()
    private.mkdir()
    return work, private


def run(runtime: Runtime, task: Task) -> None:
    what = runtime.invocation(task)
    subprocess.run(what.argv, env=dict(what.env), cwd=what.cwd, check=True, timeout=60)


def test_a_task_runs_with_the_code_at_hand(
    runtime: Runtime, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    work, private = folders
    out = runtime.inside(work / "told.json", work=work, private=private)
    args = ("-m", "told", str(out), "a b", "$(id)")
    run(runtime, Task(args, {"SCENEBRIDGE_WORK": "w"}, work, private))
    told = json.loads((work / "told.json").read_text())
    assert told["args"] == ["a b", "$(id)"]
    assert told["env"]["SCENEBRIDGE_WORK"] == "w"
    assert told["env"]["OPENBLAS_NUM_THREADS"] == "1"
    assert told["env"]["PATH"]
    assert "AWS_SECRET_ACCESS_KEY" not in told["env"]


def test_secrets_of_the_environment_are_not_in_the_command_line(
    runtime: Runtime, folders: tuple[Path, Path]
) -> None:
    work, private = folders
    what = runtime.invocation(Task(("-c", "pass"), {"TOKEN": "sesame"}, work, private))
    assert "sesame" not in " ".join(what.argv)
    assert what.env["TOKEN"] == "sesame"


def test_what_runs_outside_never_works_in_the_jobs_folder(
    runtime: Runtime, folders: tuple[Path, Path]
) -> None:
    work, private = folders
    what = runtime.invocation(Task(("-c", "pass"), {}, work, private))
    assert work not in (what.cwd, *what.cwd.parents)


def test_paths_inside_are_absolute(runtime: Runtime, folders: tuple[Path, Path]) -> None:
    work, private = folders
    for path in (work / "in", private / "jupyter.sock"):
        assert runtime.inside(path, work=work, private=private).is_absolute()


def test_a_runtime_that_can_work_has_no_problem(runtime: Runtime) -> None:
    assert runtime.problem() == ""
    assert runtime.isolation in set(Isolation)


# --- process ---------------------------------------------------------------------------


def test_process_says_that_it_isolates_nothing(tmp_path: Path) -> None:
    assert _process(tmp_path).isolation is Isolation.NONE


def test_process_says_what_is_missing(tmp_path: Path) -> None:
    options = {"python": str(tmp_path / "python"), "code": str(tmp_path)}
    assert "Python of the policy is missing" in make_runtime("process", options).problem()
    options = {"python": sys.executable, "code": str(tmp_path / "code")}
    assert "code folder of the policy is missing" in make_runtime("process", options).problem()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "lacks the key 'python'"),
        ({"python": "python3", "code": "/c"}, "absolute"),
        ({"python": "/p", "code": "code"}, "absolute"),
        ({"python": "/p", "code": "/c", "image": "x"}, "unknown key 'image'"),
        ({"python": 3, "code": "/c"}, "must be text"),
    ],
)
def test_process_checks_its_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make_runtime("process", options)


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(InvalidInput, match="none of: process"):
        make_runtime("docker", {})
