"""The gate's folder and its commands."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import pytest

from lib.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    Refused,
    SceneBridgeError,
    Unavailable,
    from_code,
)
from lib.gate import serve, state_dir
from lib.gate.__main__ import main
from lib.gate.audit import Audit
from lib.gate.job_record import JobRecord, SessionFolders
from lib.gate.serve import _report, _watch_kill_switch, end_tasks
from lib.gate.state_dir import RunningGate, StateDir, this_node
from lib.jobs.processes import start_of, this_process
from lib.loops import Loops
from lib.model import JobState
from lib.protocol.messages import JobKind

ROOT = Path(__file__).resolve().parents[2]
FIRST = {"python": sys.executable, "code": str(ROOT)}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "inner"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub")


def gate(*args: str) -> subprocess.CompletedProcess[str]:
    """One command of `python -m lib.gate` that starts no gate."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        try:
            code = main(list(args))
        except SystemExit as exc:
            code = exc.code
    return subprocess.CompletedProcess(args, code, out.getvalue(), errors.getvalue())


def test_init_prints_json_and_makes_a_private_folder(tmp_path: Path, key: Path) -> None:
    home = tmp_path / "a" / "gate"
    done = gate("init", "--home", str(home), "--cluster", "here", "--portal-key", str(key))
    answer = json.loads(done.stdout)
    assert answer["host_key"].startswith("ssh-ed25519 AAAA")
    assert answer["cluster"] == "here"
    assert home.stat().st_mode & 0o777 == 0o700
    for name in ("host_key", "authorized_key", "policy.toml"):
        assert (home / name).stat().st_mode & 0o777 == 0o600
    policy = StateDir(home).policy()
    assert policy.modules == policy.data_paths == ()  # allows nothing yet


def test_init_again_keeps_the_host_key_and_the_policy(tmp_path: Path, key: Path) -> None:
    home = StateDir(tmp_path / "gate")
    first = home.init("here", key, None, FIRST)
    policy = tmp_path / "policy.toml"
    text = (home.path / "policy.toml").read_text()
    policy.write_text(text + "[limits]\nmax_live = 9\n")
    assert home.init("here", key, policy, FIRST) == first
    assert home.init("here", key, None, FIRST) == first
    assert home.policy().limits.max_live == 9


def test_keys_of_other_types_are_refused(tmp_path: Path, key: Path) -> None:
    for file in ("portal", "host"):
        make = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / file]
        subprocess.run(make, check=True)
    home = StateDir(tmp_path / "gate")
    with pytest.raises(InvalidInput, match="ed25519"):
        home.init("here", tmp_path / "portal.pub", None, FIRST)
    home.init("here", key, None, FIRST)
    assert home.portal_key().get_algorithm() == "ssh-ed25519"
    shutil.copyfile(tmp_path / "host", home.path / "host_key")
    with pytest.raises(InvalidInput, match="ed25519"):
        home.host_key()


@pytest.mark.parametrize("cluster", ["../x", "", "A B", "x" * 60])
def test_init_refuses_odd_cluster_names(tmp_path: Path, key: Path, cluster: str) -> None:
    with pytest.raises(InvalidInput, match="id of a cluster"):
        StateDir(tmp_path / "gate").init(cluster, key, None, FIRST)


def test_init_refuses_what_is_no_key_or_another_clusters_policy(tmp_path: Path, key: Path) -> None:
    home = StateDir(tmp_path / "gate")
    (tmp_path / "no.pub").write_text("hello")
    with pytest.raises(InvalidInput, match="public key"):
        home.init("here", tmp_path / "no.pub", None, FIRST)
    home.init("here", key, None, FIRST)
    with pytest.raises(InvalidInput, match="is for here, not for there"):
        home.init("there", key, None, FIRST)


def test_a_folder_open_to_others_is_not_served(tmp_path: Path, key: Path) -> None:
    home = StateDir(tmp_path / "gate")
    home.init("here", key, None, FIRST)
    home.path.chmod(0o755)
    with pytest.raises(Refused, match="open to others"):
        home.host_key()
    done = gate("serve", "--home", str(home.path))
    assert (done.returncode, "open to others" in done.stderr) == (1, True)


def test_a_folder_that_is_a_link_is_not_served(tmp_path: Path, key: Path) -> None:
    StateDir(tmp_path / "gate").init("here", key, None, FIRST)
    (tmp_path / "link").symlink_to(tmp_path / "gate")
    with pytest.raises(Refused, match="not a folder of this account"):
        StateDir(tmp_path / "link").host_key()


def test_what_is_no_gates_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        StateDir(tmp_path / "none").host_key()
    done = gate("serve", "--home", str(tmp_path / "none"), "--detach")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert gate("serve").returncode == 2
    assert gate("dance", "--home", "x").returncode == 2


def test_check_names_what_is_missing(tmp_path: Path, key: Path) -> None:
    home = tmp_path / "gate"
    first = {"python": str(tmp_path / "python"), "code": str(tmp_path)}
    StateDir(home).init("here", key, None, first)
    answer = json.loads(gate("check", "--home", str(home)).stdout)
    assert "Python of the policy is missing" in answer["problems"][0]
    with (home / "policy.toml").open("a") as policy:
        policy.write("colour = 1\n")
    done = gate("check", "--home", str(home))
    assert done.returncode == 1
    assert "unknown key 'colour'" in done.stderr


def test_one_lock_per_folder(tmp_path: Path, key: Path) -> None:
    home = StateDir(tmp_path / "gate")
    home.init("here", key, None, FIRST)
    with home.lock(), pytest.raises(Conflict, match="serves"), home.lock():
        pass
    with home.lock():
        pass


@contextmanager
def stopped_gate(home: StateDir) -> Iterator[subprocess.Popen[bytes]]:
    """A gate that was told to end, listens no more, and is still busy; SIGTERM is nothing to it."""
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        start = start_of(process.pid)
        home.announce(RunningGate(process.pid, start, 1, "k", "here", "0"))
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def home(tmp_path: Path, key: Path) -> StateDir:
    made = StateDir(tmp_path / "gate")
    made.init("here", key, None, FIRST)
    return made


@pytest.mark.parametrize(("ended", "code"), [(False, 3), (True, 0)])
@pytest.mark.parametrize("by", ["stop", "kill switch"])
def test_jobs_that_do_not_end_are_listed_with_an_exit_code(
    home: StateDir, monkeypatch: pytest.MonkeyPatch, by: str, *, ended: bool, code: int
) -> None:
    """Slurm cannot be asked (its programs are not there), so that nobody knows of the job."""
    policy = home.path / "policy.toml"
    slurm = f'name = "slurm"\nbin = "{home.path}/none"'
    policy.write_text(policy.read_text().replace('name = "local"', slurm))
    monkeypatch.setattr(serve, "_JOBS_TIMEOUT_S", 0.0)
    record = a_record(JobState.ENDED if ended else JobState.RUNNING)
    folders = SessionFolders(home.path)
    folders.control(record.id).mkdir(parents=True)
    folders.save(record)
    if by == "stop":
        done = gate("stop", "--home", str(home.path), "--jobs")
    else:
        (home.path / "STOP").touch()
        done = gate("serve", "--home", str(home.path), "--detach")
        code = code or 1  # no gate starts while it is on
    assert done.returncode == code, done.stderr
    line = f"1 job has not ended yet: session {record.id} of ada (job 7, running)."
    assert (line in done.stderr) is not ended


def test_an_error_that_only_the_gate_has_stands_for_no_other() -> None:
    """An answer names its error by the code: each class must have its own."""

    def below(kind: type[SceneBridgeError]) -> Iterator[type[SceneBridgeError]]:
        for sub in kind.__subclasses__():
            yield sub
            yield from below(sub)

    ours = [kind for kind in below(SceneBridgeError) if kind.__module__.startswith("lib.")]
    assert serve.JobsRunOn in ours
    assert len({kind.code for kind in ours}) == len(ours)
    for kind in ours:
        made = from_code(kind.code, "So it is.")
        assert (type(made), made.message) == (kind, "So it is.")


def a_record(state: JobState) -> JobRecord:
    record = JobRecord(
        "0f0e0d0c-0b0a-0908-0706-050403020100", JobKind.SESSION, "ada", "small", "1.0.0", "",
        "sb-x", "small", 600, [], 1.0,
    )  # fmt: skip
    record.job, record.state, record.keep_until = "7", state, 4e9
    return record


@pytest.mark.parametrize("locks", [True, False])
def test_a_second_gate_waits_for_the_end_of_a_stopped_one(
    home: StateDir, monkeypatch: pytest.MonkeyPatch, *, locks: bool
) -> None:
    if not locks:
        monkeypatch.setattr("fcntl.flock", _no_locks)
    with stopped_gate(home) as process:
        assert home.running() is not None
        home.withdraw()
        assert home.running() is None

        def end(_: float) -> None:
            process.communicate(b"\n")

        monkeypatch.setattr(state_dir.time, "sleep", end)
        with home.lock():
            assert process.returncode == 0


def test_a_second_gate_ends_a_stopped_one_that_does_not_end(
    home: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_dir, "_PATIENCE_S", 0.0)
    with stopped_gate(home) as process:
        home.withdraw()
        with home.lock():
            assert process.poll() == -signal.SIGKILL
        with home.lock():
            pass


def test_a_gate_that_serves_is_neither_waited_for_nor_ended(home: StateDir) -> None:
    with stopped_gate(home) as process, home.lock():
        with pytest.raises(Conflict, match="serves"), home.lock():
            pass
        assert process.poll() is None


@pytest.mark.parametrize("withdrawn", [True, False])
def test_stop_returns_when_the_process_is_over(
    home: StateDir, monkeypatch: pytest.MonkeyPatch, *, withdrawn: bool
) -> None:
    monkeypatch.setattr(serve, "_STOP_TIMEOUT_S", 0.2)
    with stopped_gate(home) as process:
        if withdrawn:
            home.withdraw()
        assert serve.stop(home, jobs=False) is not withdrawn
        assert process.poll() == -signal.SIGKILL


def test_a_gate_that_ends_jobs_for_the_kill_switch_is_left_to_it(
    home: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_STOP_TIMEOUT_S", 0.0)
    (home.path / "STOP").touch()
    with stopped_gate(home) as process:
        with pytest.raises(Unavailable, match="still ends its jobs"):
            serve.stop(home, jobs=False)
        assert process.poll() is None


def test_a_note_of_a_gate_that_died_is_not_believed(tmp_path: Path, key: Path) -> None:
    home = StateDir(tmp_path / "gate")
    home.init("here", key, None, FIRST)
    note = {"pid": os.getpid(), "start": "another", "port": 1, "host_key": "k", "cluster": "here"}
    (home.path / "gate.json").write_text(json.dumps({**note, "version": "0"}))
    assert home.running() is None
    assert json.loads(gate("stop", "--home", str(home.path)).stdout) == {"was_running": False}


def test_the_audit_counts_what_is_repeated_and_what_floods(tmp_path: Path) -> None:
    now = 0.0
    audit = Audit(tmp_path / "audit.jsonl", clock=lambda: now)
    for _ in range(1000):
        audit.write("cancelled", session="s", owner="ada")
    for n in range(1000):
        audit.refused("exec", command=f"{n} " + "x" * 1000)
    audit.refused("forward", host="n1", port=22)  # not hidden by the flood
    now = 600.0
    audit.refused("exec", command="y")
    audit.refused("exec", command="y")
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    for line in lines:
        del line["time"]
    assert lines[0] == {"event": "cancelled", "session": "s", "owner": "ada"}
    assert [line["command"].split()[0] for line in lines[1:101]] == [str(n) for n in range(100)]
    assert max(len(line.get("command", "")) for line in lines) == 300
    assert lines[101:] == [
        {"event": "refused", "what": "forward", "host": "n1", "port": 22},
        {"event": "repeated", "of": "cancelled", "count": 999, "session": "s", "owner": "ada"},
        {"event": "repeated", "of": "refused", "what": "exec", "count": 900},
        {"event": "refused", "what": "exec", "command": "y"},
        {"event": "repeated", "of": "refused", "what": "exec", "count": 1, "command": "y"},
    ]


def test_a_folder_with_a_fixed_node_is_served_there_alone(tmp_path: Path, key: Path) -> None:
    home = StateDir(tmp_path / "gate")
    home.init("here", key, None, FIRST)
    assert home.node == ""
    home.init("here", None, None, FIRST, fix_node=True)
    assert home.node == this_node()
    with home.lock():
        pass
    (home.path / "node").write_text("login-2\n")
    for command in (["serve"], ["serve", "--detach"], ["stop"]):
        done = gate(*command, "--home", str(home.path))
        assert (done.returncode, "belongs to the node login-2" in done.stderr) == (1, True)
    with pytest.raises(Conflict, match="Name login-2 as the login host"), home.lock():
        pass
    answer = json.loads(gate("status", "--home", str(home.path)).stdout)
    assert (answer["node"], answer["this_node"]) == ("login-2", this_node())


def test_without_a_key_init_needs_one_that_is_there(tmp_path: Path, key: Path) -> None:
    home = StateDir(tmp_path / "gate")
    with pytest.raises(InvalidInput, match="public key"):
        home.init("here", None, None, FIRST)
    home.init("here", key, None, FIRST)
    before = home.portal_key()
    home.init("here", None, None, FIRST)
    assert home.portal_key() == before


def _no_locks(*_: object, number: int = errno.ENOLCK) -> None:
    raise OSError(number, "no locks here")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_served_unless_a_gate_runs(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    home = StateDir(tmp_path / "gate")
    home.init("here", key, None, FIRST)
    monkeypatch.setattr("fcntl.flock", partial(_no_locks, number=number))
    with home.lock():
        pass
    me = this_process()
    home.announce(RunningGate(me.pid, me.start, 1, "k", "here", "0"))
    with pytest.raises(Conflict, match="serves"), home.lock():
        pass


def test_the_kill_switch_keeps_a_gate_from_starting(tmp_path: Path, key: Path) -> None:
    home = StateDir(tmp_path / "gate")
    home.init("here", key, None, FIRST)
    (home.path / "STOP").symlink_to("/nowhere")
    for command in (["serve"], ["serve", "--detach"]):
        done = gate(*command, "--home", str(home.path))
        assert (done.returncode, "The kill switch is on" in done.stderr) == (1, True)
    audit = home.audit.read_text()
    assert '"what": "start"' in audit


def test_check_looks_at_another_policy_too(tmp_path: Path, key: Path) -> None:
    home = StateDir(tmp_path / "gate")
    home.init("here", key, None, FIRST)
    other = tmp_path / "other.toml"
    text = (home.path / "policy.toml").read_text()
    other.write_text(text.replace('users = ["*"]', "users = []"))
    done = gate("check", "--home", str(home.path), "--policy", str(other))
    assert any("takes jobs from nobody" in p for p in json.loads(done.stdout)["problems"])
    other.write_text(text.replace('"here"', '"there"'))
    done = gate("check", "--home", str(home.path), "--policy", str(other))
    assert (done.returncode, "is for there, not for here" in done.stderr) == (1, True)


async def test_a_loop_that_stands_still_is_said_by_status(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.gate.serve._REPORT_EVERY_S", 0.0)
    home = StateDir(tmp_path / "gate")
    home.init("here", key, None, FIRST)
    me = this_process()
    home.announce(RunningGate(me.pid, me.start, 1, "k", "here", "0"))
    now = 0.0
    loops = Loops("The gate", logging.getLogger("gate"), clock=lambda: now)
    polls = asyncio.ensure_future(loops.add("polled", late_after_s=100.0).run(asyncio.Event().wait))
    told: asyncio.Queue[str] = asyncio.Queue()
    here = asyncio.get_running_loop()
    say = StateDir.say_trouble

    def say_trouble(self: StateDir, text: str) -> None:
        say(self, text)
        here.call_soon_threadsafe(told.put_nowait, text)

    monkeypatch.setattr(StateDir, "say_trouble", say_trouble)
    reports = asyncio.ensure_future(_report(loops, home))
    await asyncio.sleep(0)
    now = 101.0
    said = await told.get()
    assert said.startswith("The gate has not polled since ")
    assert said in json.loads(gate("status", "--home", str(home.path)).stdout)["problems"]
    await end_tasks([polls, reports])
    home.announce(RunningGate(me.pid, me.start, 1, "k", "here", "0"))
    assert said not in json.loads(gate("status", "--home", str(home.path)).stdout)["problems"]


async def test_the_kill_switch_is_found_after_a_fault_of_looking_for_it(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lib.loops.FAULT_PAUSE_S", 0.0)
    monkeypatch.setattr("lib.gate.kill_switch.LOOK_EVERY_S", 0.0)
    home = StateDir(tmp_path / "gate")
    home.init("here", key, None, FIRST)
    (home.path / "STOP").touch()
    looked = []
    real = StateDir.active_stop_file

    def look(self: StateDir, files: tuple[Path, ...]) -> Path | None:
        looked.append(files)
        if len(looked) < 4:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(self, files)

    monkeypatch.setattr(StateDir, "active_stop_file", look)
    stop, audit = asyncio.Event(), Audit(home.audit)
    loops = Loops("The gate", logging.getLogger("gate"))
    watching = asyncio.ensure_future(_watch_kill_switch(loops, home, home.policy(), stop, audit))
    await stop.wait()
    await end_tasks([watching])
    audit.close()
    assert sum(r.levelname == "ERROR" for r in caplog.records) == 1


@pytest.mark.slow
async def test_a_task_that_loses_a_cancellation_is_ended_all_the_same() -> None:
    lost = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if len(lost) == 2:
                    raise
                lost.append(1)

    task = asyncio.ensure_future(stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(end_tasks([task]), 300)
    assert task.cancelled()
    assert len(lost) == 2
