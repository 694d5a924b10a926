"""One suite for every runtime; see the obligations in `lib.jobs.interfaces.Runtime`.

What only the runtime apptainer promises is in `tests/security/test_container.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lib.errors import InvalidInput
from lib.jobs.interfaces import Runtime, Task
from lib.jobs.runtimes import make_runtime
from lib.model import Isolation
from tests.fixtures.containers import make_containers, why_not


class Bench:
    """A runtime, with folders for a task and a way to run it.

    Args:
        enter: puts a command where the runtime can work.
    """

    def __init__(
        self, runtime: Runtime, folder: Path, image: Path | None, enter: Callable[..., list[str]]
    ) -> None:
        self.runtime = runtime
        self.work, self.private = folder / "work", folder / "private"
        self.work.mkdir()
        self.private.mkdir()
        self._image = image
        self._enter = enter

    def task(self, *args: str, gpus: int = 0, **env: str) -> Task:
        return Task(args, env, self.work, self.private, (), gpus, self._image)

    def inside(self, path: Path) -> str:
        return str(self.runtime.inside(path, work=self.work, private=self.private))

    def start(self, task: Task) -> subprocess.Popen[bytes]:
        what = self.runtime.invocation(task)
        return subprocess.Popen(
            self._enter(*what.argv), env=dict(what.env), cwd=what.cwd, start_new_session=True
        )

    def run(self, task: Task) -> None:
        assert self.start(task).wait(timeout=300) == 0


def _process(code: Path) -> Runtime:
    return make_runtime("process", {"python": sys.executable, "code": str(code)})


def _process_bench(folder: Path, code: Path) -> Bench:
    return Bench(_process(code), folder, None, lambda *argv: list(argv))


def _apptainer_bench(folder: Path, code: Path) -> Bench:
    if why_not():
        pytest.skip(why_not())
    (folder / "image").mkdir()
    containers = make_containers(folder / "image")
    runtime = make_runtime("apptainer", containers.options(code))
    return Bench(runtime, folder, containers.image, containers.as_ada)


RUNTIMES: dict[str, Callable[[Path, Path], Bench]] = {
    "process": _process_bench,
    "apptainer": _apptainer_bench,
}


@pytest.fixture(params=list(RUNTIMES))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    code = tmp_path / "code"
    code.mkdir()
    (code / "told.py").write_text(
        "import json, os, sys\n"
        "open(sys.argv[1], 'w').write(json.dumps("
        "{'env': dict(os.environ), 'cwd': os.getcwd(), 'args': sys.argv[2:]}))\n"
    )
    (code / "waits.py").write_text(
        "import pathlib, signal, subprocess, sys, time\n"
        "def end(*_):\n"
        "    pathlib.Path(sys.argv[1], 'told').touch()\n"
        "    sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "subprocess.Popen(['sleep', sys.argv[2]])\n"
        "pathlib.Path(sys.argv[1], 'waits').touch()\n"
        "time.sleep(60)\n"
    )
    return RUNTIMES[request.param](tmp_path, code)


def test_a_task_runs_with_the_code_at_hand(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    out = bench.inside(bench.work / "told.json")
    strange = "a\nb $(id) `id` ${HOME} \"'"
    bench.run(bench.task("-m", "told", out, "a b", "$(id)", SCENEBRIDGE_WORK="w", STRANGE=strange))
    told = json.loads((bench.work / "told.json").read_text())
    assert told["args"] == ["a b", "$(id)"]
    assert told["env"]["SCENEBRIDGE_WORK"] == "w"
    assert told["env"]["STRANGE"] == strange
    assert told["env"]["OPENBLAS_NUM_THREADS"] == "1"
    assert told["env"]["PATH"]
    assert "AWS_SECRET_ACCESS_KEY" not in told["env"]
    assert told["cwd"] == bench.inside(bench.private)


def test_secrets_of_the_environment_are_not_in_the_command_line(bench: Bench) -> None:
    what = bench.runtime.invocation(bench.task("-c", "pass", TOKEN="sesame"))
    assert "sesame" not in " ".join(what.argv)
    assert "sesame" in what.env.values()


def test_what_runs_outside_never_works_in_the_jobs_folder(bench: Bench) -> None:
    what = bench.runtime.invocation(bench.task("-c", "pass"))
    assert bench.work not in (what.cwd, *what.cwd.parents)


def test_paths_inside_are_absolute(bench: Bench) -> None:
    for path in (bench.work, bench.work / "in", bench.private / "jupyter.sock"):
        assert Path(bench.inside(path)).is_absolute()


def test_term_reaches_the_task_and_nothing_is_left(bench: Bench) -> None:
    mark = f"60.{os.getpid()}{secrets.randbelow(10**6):06d}"
    process = bench.start(bench.task("-m", "waits", bench.inside(bench.work), mark))
    try:
        soon(lambda: (bench.work / "waits").exists() and running(mark))
        process.terminate()
        assert process.wait(timeout=300) == 7
        assert (bench.work / "told").exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    soon(lambda: not running(mark))


def running(mark: str) -> list[str]:
    """Command lines with `mark`."""
    out = subprocess.run(["ps", "-axwwo", "args="], capture_output=True, text=True, check=True)
    return [line for line in out.stdout.splitlines() if mark in line]


def soon(true: Callable[[], object], timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_gpus_are_named_to_a_task_that_was_given_some(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    out = bench.inside(bench.work / "told.json")
    bench.run(bench.task("-m", "told", out, gpus=2))
    told = json.loads((bench.work / "told.json").read_text())
    assert told["env"]["CUDA_VISIBLE_DEVICES"] == "1,3"


def test_a_runtime_that_can_work_has_no_problem(bench: Bench) -> None:
    assert bench.runtime.problem() == ""
    assert bench.runtime.isolation in set(Isolation)
    assert bench.runtime.data_problem(Path("/archive/landsat")) == ""


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
    with pytest.raises(InvalidInput, match="none of: apptainer, process"):
        make_runtime("docker", {})


# --- apptainer -------------------------------------------------------------------------


def test_apptainer_keeps_gpus_out_of_a_task_without(tmp_path: Path) -> None:
    runtime = make_runtime("apptainer", {})
    for gpus, has in ((0, False), (1, True)):
        task = Task((), {}, tmp_path, tmp_path, (), gpus, Path("/images/x.sif"))
        assert ("--nv" in runtime.invocation(task).argv) is has


def test_apptainer_says_that_it_is_a_container_and_needs_an_image(tmp_path: Path) -> None:
    runtime = make_runtime("apptainer", {})
    assert runtime.isolation is Isolation.CONTAINER
    assert runtime.needs_image
    with pytest.raises(InvalidInput, match="has no image"):
        runtime.invocation(Task((), {}, tmp_path, tmp_path))


def test_apptainer_says_what_is_missing(tmp_path: Path) -> None:
    runtime = make_runtime("apptainer", {"binary": str(tmp_path / "apptainer")})
    assert runtime.problem().startswith("Apptainer is missing: ")
    options = {"binary": sys.executable, "binds": [f"{tmp_path}/licences:/licences"]}
    assert "licences, which does not exist" in make_runtime("apptainer", options).problem()


@pytest.mark.parametrize("options", [{}, {"binds": ["/usr"]}, {"binds": ["/usr:/opt/host"]}])
def test_apptainer_takes_these_options(options: dict[str, object]) -> None:
    assert make_runtime("apptainer", options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"binary": "apptainer"}, "absolute"),
        ({"python": "python3"}, "absolute"),
        ({"code": "code"}, "absolute"),
        ({"image": "/x.sif"}, "unknown key 'image'"),
        ({"binds": "/usr"}, "must be a list"),
        ({"binds": ["usr:/usr"]}, "both absolute"),
        ({"binds": ["/usr:usr"]}, "both absolute"),
        ({"binds": ["/usr:/usr:rw"]}, "both absolute"),
        ({"binds": [""]}, "both absolute"),
        *(({"binds": [f"{path}:/x"]}, "too much") for path in ("/", "/usr/..", "/etc", "/proc")),
        *(({"binds": [f"{path}:/x"]}, "too much") for path in ("/run/munge", "/dev/mem", "/tmp")),
        *(({"binds": [f"/usr:{path}"]}, "would hide") for path in ("/", "/tmp", "/session/work")),
        *(({"binds": [f"/usr:{path}"]}, "would hide") for path in ("/x/..", "/proc", "/dev/shm")),
    ],
)
def test_apptainer_checks_its_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make_runtime("apptainer", options)


@pytest.mark.parametrize(
    "path", ["/", "/usr/share/data", "/etc", "/opt/data", "/tmp/x", "/session"]
)
def test_apptainer_takes_no_data_that_would_hide_the_image(tmp_path: Path, path: str) -> None:
    runtime = make_runtime("apptainer", {})
    assert "would hide" in runtime.data_problem(Path(path))
    task = Task((), {}, tmp_path, tmp_path, (Path(path),), 0, Path("/images/x.sif"))
    with pytest.raises(InvalidInput, match="would hide"):
        runtime.invocation(task)


def test_apptainer_binds_paths_of_any_name_but_with_line_breaks(tmp_path: Path) -> None:
    runtime = make_runtime("apptainer", {})
    task = Task((), {}, tmp_path, tmp_path, (Path('/data/a,"b":c'),), 0, Path("/images/x.sif"))
    wanted = '"type=bind","source=/data/a,""b"":c","destination=/data/a,""b"":c",ro'
    assert wanted in runtime.invocation(task).argv
    with pytest.raises(InvalidInput, match="line breaks"):
        runtime.invocation(replace(task, readable=(Path("/data/a\nb"),)))
