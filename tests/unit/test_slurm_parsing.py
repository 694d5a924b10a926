"""What Slurm prints, in our words.

`JOBS`, `NODES`, `SHOWN` and the exit codes were captured from Slurm 22.05.8 (Debian 12,
without the padding); other forms are those that its manuals of 23.11 and 24.11 give.
"""

from __future__ import annotations

import time

import pytest

from lib.jobs.schedulers.slurm import parsing
from lib.jobs.schedulers.slurm.reasons import sentence
from lib.model import EndReason, JobState

# --- captured from 22.05.8: squeue -h --user=0 -t all -O JobID:20|,...,Name:512| ------

JOBS = """\
15|CANCELLED|n/a|2026-11-26T01:40:45|2026-11-26T01:40:45|Priority|0|2026-11-26T01:40:37|0|N/A|canc|
1|COMPLETED|vm|2026-11-26T01:40:38|2026-11-26T01:40:40|None|0|2026-11-26T01:40:37|0|N/A|na|me|
4|FAILED|vm|2026-11-26T01:40:42|2026-11-26T01:40:42|NonZeroExitCode|1792|2026-11-26T01:40:37|0|N/A|fail|
5|FAILED|vm|2026-11-26T01:40:42|2026-11-26T01:40:42|JobLaunchFailure|9|2026-11-26T01:40:37|0|N/A|kill|
6|FAILED|vm|2026-11-26T01:40:43|2026-11-26T01:40:43|NonZeroExitCode|32512|2026-11-26T01:40:37|0|N/A|missing|
18|FAILED|n/a|2026-11-26T01:40:45|2026-11-26T01:40:45|BadConstraints|1|2026-11-26T01:40:37|0|N/A|sbatch|
8|PENDING|n/a|2026-11-26T01:41:44|2026-11-26T01:42:44|Resources|0|2026-11-26T01:40:37|0|N/A|prio|
12|PENDING|n/a|2026-11-26T02:40:43|NONE|BeginTime|0|2026-11-26T01:40:37|0|N/A|begin|
9|PENDING|n/a|N/A|N/A|JobHeldUser|0|2026-11-26T01:40:37|0|N/A|held|
7|RUNNING|vm|2026-11-26T01:40:44|2026-11-26T01:41:44|None|0|2026-11-26T01:40:37|2|N/A|long|
26|COMPLETING|vm|2026-11-26T01:41:10|2026-11-26T01:41:11|None|0|2026-11-26T01:40:37|0|N/A|stop|
27|CANCELLED|vm|2026-11-26T01:41:10|2026-11-26T01:41:11|None|9|2026-11-26T01:40:37|0|N/A|stopped|
25|TIMEOUT|vm|2026-11-26T01:41:10|2026-11-26T01:42:17|TimeLimit|9|2026-11-26T01:40:37|0|N/A|wall|
372|OUT_OF_MEMORY|vm|2026-11-26T01:42:12|2026-11-26T01:42:13|OutOfMemory|253|2026-11-26T01:40:37|0|N/A|oom|
30|RUNNING|vm|2026-11-26T01:41:12|2026-11-26T01:41:18|None|0|2026-11-26T01:40:37|0|2026-11-26T01:41:14|pre|
31|SIGNALING|vm|2026-11-26T01:41:13|2026-11-26T01:41:19|None|0|2026-11-26T01:40:37|0|2026-11-26T01:41:15|pre2|
32|PREEMPTED|vm|2026-11-26T01:41:12|2026-11-26T01:41:30|None|15|2026-11-26T01:40:37|0|2026-11-26T01:41:30|gone|
33|RUNNING|vm|2026-11-26T01:42:12|2026-11-26T01:43:12|None|0|2026-11-26T01:40:37|1|2026-11-26T01:41:30|again|
"""


def test_jobs_as_squeue_prints_them() -> None:
    views = {view.name: view for view in parsing.jobs(JOBS)}
    assert len(views) == 18
    ends = {n: (v.end_reason, v.exit_code) for n, v in views.items() if v.end_reason}
    assert ends == {
        "canc": (EndReason.CANCELLED, None),
        "na|me": (EndReason.FINISHED, 0),
        "fail": (EndReason.CRASHED, 7),
        "kill": (EndReason.CRASHED, 137),
        "missing": (EndReason.FAILED_TO_START, 127),
        "sbatch": (EndReason.FAILED_TO_START, None),
        "stopped": (EndReason.STOPPED, 137),
        "wall": (EndReason.WALLTIME, 137),
        "oom": (EndReason.OUT_OF_MEMORY, 253),
        "gone": (EndReason.PREEMPTED, 143),
    }
    running, ending = views["long"], views["stop"]
    assert (running.state, running.node, running.reason) == (JobState.RUNNING, "vm", "")
    assert (running.started_at, running.ends_at) == (1795657244.0, 1795657304.0)
    assert running.starts_at is None
    assert (running.submitted_at, running.restarts, ending.restarts) == (1795657237.0, 2, 0)
    assert (ending.state, ending.reason) == (JobState.RUNNING, "It is ending.")
    assert views["wall"].ended_at == 1795657337.0
    waiting = views["prio"]
    assert (waiting.state, waiting.node, waiting.started_at) == (JobState.QUEUED, "", None)
    assert waiting.starts_at == 1795657304.0
    assert waiting.reason == "Waiting for free nodes."
    assert views["held"].state is JobState.HELD
    assert views["held"].starts_at is None
    for name in ("pre", "pre2"):  # in their time of grace
        assert views[name].state is JobState.RUNNING
        assert "more urgent job" in views[name].reason
    assert views["pre"].ends_at == 1795657278.0
    assert views["again"].reason == "", "it was preempted in the run before"
    assert views["canc"].started_at is None


def test_the_names_of_other_jobs_spoil_nothing() -> None:
    """Of the same account, but not ours: a line break, separators, an array."""
    line = "7|RUNNING|vm|2026-11-26T01:40:44|2026-11-26T01:41:44|None|0|2026-11-26T01:40:37|0|N/A|"
    views = parsing.jobs(f"{line}two\nlines|\n\n{line.replace('7', '8')}a|b|c|\n12_[1-3]|PENDING\n")
    assert [(v.id, v.name) for v in views] == [("7", "two"), ("8", "a|b|c")]


def test_no_jobs_are_no_jobs_and_rubbish_is_an_error() -> None:
    assert parsing.jobs("") == []
    assert parsing.jobs("\n \n") == []
    with pytest.raises(parsing.NotUnderstood, match="slurm_load"):
        parsing.jobs("slurm_load_jobs error: something new\n")


# --- the state table, row by row ------------------------------------------------------


def raw(state: str, **changes: object) -> parsing.Raw:
    values = {"reason": "None", "node": "n1", "start": 1.0, "end": 2.0, "exit_code": 0, **changes}
    return parsing.Raw("1", "x", state, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("PENDING", JobState.QUEUED),
        ("CONFIGURING", JobState.QUEUED),
        ("REQUEUED", JobState.QUEUED),
        ("REQUEUE_FED", JobState.QUEUED),
        ("POWER_UP_NODE", JobState.QUEUED),
        ("REQUEUE_HOLD", JobState.HELD),
        ("RESV_DEL_HOLD", JobState.HELD),
        ("SPECIAL_EXIT", JobState.HELD),
        ("RUNNING", JobState.RUNNING),
        ("COMPLETING", JobState.RUNNING),
        ("SIGNALING", JobState.RUNNING),
        ("STAGE_OUT", JobState.RUNNING),
        ("RESIZING", JobState.RUNNING),
        ("SUSPENDED", JobState.SUSPENDED),
        ("STOPPED", JobState.SUSPENDED),
        ("", JobState.UNKNOWN),
        ("SOMETHING_NEW", JobState.UNKNOWN),
    ],
)
def test_states_of_live_jobs(state: str, expected: JobState) -> None:
    view = parsing.view(raw(state))
    assert (view.state, view.end_reason, view.ended_at) == (expected, None, None)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("COMPLETED", EndReason.FINISHED),
        ("FAILED", EndReason.CRASHED),
        ("CANCELLED", EndReason.STOPPED),
        ("TIMEOUT", EndReason.WALLTIME),
        ("DEADLINE", EndReason.WALLTIME),
        ("OUT_OF_MEMORY", EndReason.OUT_OF_MEMORY),
        ("NODE_FAIL", EndReason.NODE_FAILURE),
        ("PREEMPTED", EndReason.PREEMPTED),
        ("BOOT_FAIL", EndReason.FAILED_TO_START),
        ("LAUNCH_FAILED", EndReason.FAILED_TO_START),
        ("RECONFIG_FAIL", EndReason.FAILED_TO_START),
        ("REVOKED", EndReason.CANCELLED),
    ],
)
def test_states_of_ended_jobs(state: str, expected: EndReason) -> None:
    view = parsing.view(raw(state))
    assert (view.state, view.end_reason, view.ended_at) == (JobState.ENDED, expected, 2.0)


def test_every_state_is_in_one_table_only() -> None:
    assert not parsing.STATES.keys() & parsing.ENDS.keys()


def test_a_folder_that_the_node_cannot_write_is_told() -> None:
    view = parsing.view(raw("FAILED", exit_code=parsing.exit_code("0:53")))
    assert view.end_reason is EndReason.FAILED_TO_START
    assert "share" in view.reason


def test_a_hold_is_one_however_it_is_written() -> None:
    for reason in ("job requeued in held state", "job_requeued_in_held_state", "JobHeldAdmin"):
        assert parsing.view(raw("PENDING", reason=reason, node="")).state is JobState.HELD
    assert parsing.view(raw("PENDING", reason=DOWN, node="")).state is JobState.QUEUED


#: As Slurm 22.05.8 words it, in squeue; scontrol puts underscores for the blanks.
DOWN = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"

# --- reasons --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("None", "Waiting to be scheduled"),
        ("(Priority)", "Waiting for free nodes; other jobs come first (priority)"),
        ("Resources", "Waiting for free nodes"),
        ("PartitionTimeLimit", "asks for more time than the queue allows and will never start"),
        ("PartitionNodeLimit", "asks for more nodes than the queue allows"),
        ("PartitionConfig", "will never start"),
        ("Dependency", "another job"),
        ("DependencyNeverSatisfied", "will never start"),
        ("Licenses", "licence"),
        ("JobHeldUser", "is held"),
        ("JobHeldAdmin", "administrators"),
        ("ReqNodeNotAvail", "not available"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "UnavailableNodes:n[1-3]"),
        ("ReqNodeNotAvail, Reserved for maintenance", "reserved for maintenance"),
        ("Reserved for maintenance", "reserved for maintenance"),
        ("QOSMaxJobsPerUserLimit", "this quality of service has reached its limit of jobs"),
        ("QOSMaxCpuPerUserLimit", "has reached its limit of cores"),
        ("QOSMaxGRESPerUser", "has reached its limit of GPUs"),
        ("QOSMaxMemoryPerUser", "has reached its limit of memory"),
        ("QOSMaxSubmitJobPerUserLimit", "has reached its limit of"),
        ("QOSMaxWallDurationPerJobLimit", "asks for more time than this quality of service"),
        ("QOSMaxCpuPerJobLimit", "asks for more cores than this quality of service allows"),
        ("QOSMinGRES", "asks for less GPUs"),
        ("QOSGrpNodeLimit", "and everybody who shares it has reached its limit of nodes"),
        ("AssocGrpCpuLimit", "this account and everybody who shares it"),
        ("AssocGrpGRES", "limit of GPUs"),
        ("AssocGrpCPUMinutesLimit", "limit of core time"),
        ("AssocGrpBilling", "compute budget"),
        ("AssocMaxJobsLimit", "this account has reached its limit of jobs"),
        ("AssocMaxWallDurationPerJobLimit", "asks for more time than this account allows"),
        ("BrandNewReason", "Slurm says: BrandNewReason."),
        ("(Brand new (a,b))", "Slurm says: Brand new (a,b)."),
        (DOWN, "The nodes that it needs are down, drained, or reserved for more urgent jobs."),
        (DOWN.replace(" ", "_"), "are down, drained, or reserved for more urgent jobs."),
        (
            "Job's account not known, so it can't use this partition (acct allows forest)",
            "does not take jobs of this account; it will never start (acct allows forest).",
        ),
        (
            "Job's_account_not_permitted_to_use_this_partition_(acct_allows_a_b_not_c)",
            "does not take jobs of this account; it will never start",
        ),
        (
            "Job's QOS not permitted to use this partition (q allows gold not normal)",
            "does not allow this quality of service; it will never start (q allows gold not",
        ),
        ("User's group not permitted to use this partition", "for other groups of users"),
        ("launch failed requeued held", "is held because it failed to start"),
        ("job requeued in held state", "The job is held."),
        ("user env retrieval failed requeued held", "held because its account's environment"),
    ],
)
def test_reasons_are_plain_sentences(reason: str, words: str) -> None:
    text = sentence(reason)
    assert words in text
    assert text[0].isupper()
    assert text.endswith(".")


# --- numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("0", 0), ("0:0", 0),
        ("1792", 7), ("7:0", 7),
        ("9", 137), ("0:9", 137), ("0:15", 143),
        ("32512", 127), ("127:0", 127),
        ("", None), ("x", None), ("7:x", None), ("N/A", None),
    ],
)  # fmt: skip
def test_exit_codes(text: str, code: int | None) -> None:
    assert parsing.exit_code(text) == code


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("infinite", 0), ("UNLIMITED", 0), ("n/a", 0), ("10:00", 600), ("1:00:00", 3600),
        ("2-00:00:00", 172_800), ("1-12:30:15", 131_415), ("30", 1800),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: int) -> None:
    assert parsing.duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("(null)", 0), ("", 0), ("gpu", 1), ("gpu:2", 2), ("gpu:0", 0),
        ("gpu:a100:4", 4), ("gpu:v100:4(S:0-1),nvme:1", 4), ("gpu:(null):1(IDX:0)", 1),
        ("gpu:a100:2(IDX:0,3),gpu:t4:1(IDX:1)", 3), ("craynetwork:4", 0), ("gpu:4,mps:400", 4),
    ],
)  # fmt: skip
def test_gpus(text: str, count: int) -> None:
    assert parsing.gpus(text) == count


@pytest.mark.parametrize("text", ["N/A", "NONE", "Unknown", "", "2026-13-01T00:00:00"])
def test_no_time_is_none(text: str) -> None:
    assert parsing.when(text) is None


@pytest.mark.parametrize("zone", ["UTC0", "CST-8", "PST8PDT"])
def test_times_are_utc_wherever_the_gate_runs(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert parsing.when("2026-11-26T01:40:44") == 1795657244.0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("output", "job_id"),
    [
        ("4711\n", "4711"), ("4711;nchc\n", "4711"), ("Hello from the site!\n4711\n", "4711"),
        ("", None), ("error\n", None), ("47x11\n", None),
    ],
)  # fmt: skip
def test_answers_to_a_submit(output: str, job_id: str | None) -> None:
    assert parsing.submitted(output) == job_id


# --- load: captured from 22.05.8 (first lines), and states of larger clusters ---------

NODES = """\
vm |debug  |allocated     |2/0/0/2   |gpu:2       |gpu:1(IDX:0)        |infinite   |
vm |short  |allocated     |2/0/0/2   |gpu:2       |gpu:1(IDX:0)        |10:00      |
n1 |gpu    |mixed         |10/30/0/40|gpu:v100:4  |gpu:v100:3(IDX:0-2) |2-00:00:00 |
n2 |gpu    |idle          |0/40/0/40 |gpu:v100:4  |gpu:v100:0(IDX:N/A) |2-00:00:00 |
n3 |gpu    |down*         |0/0/40/40 |gpu:v100:4  |gpu:v100:0(IDX:N/A) |2-00:00:00 |
n4 |gpu    |draining      |8/0/32/40 |gpu:v100:4  |gpu:v100:1(IDX:0)   |2-00:00:00 |
n5 |gpu    |maint         |0/40/0/40 |gpu:v100:4  |gpu:v100:0(IDX:N/A) |2-00:00:00 |
n6 |gpu    |idle~         |0/40/0/40 |gpu:v100:4  |gpu:v100:0(IDX:N/A) |2-00:00:00 |
"""


def test_load_per_partition() -> None:
    debug, short, gpu = parsing.load(NODES, "debug\ndebug,gpu\ngpu\ngpu\n")
    assert (debug.nodes, debug.nodes_free, debug.cores, debug.cores_free) == (1, 0, 2, 0)
    assert (debug.gpus, debug.gpus_free) == (2, 0)  # no core is left to use it with
    assert (debug.waiting, short.waiting, gpu.waiting) == (2, 0, 3)
    assert (debug.longest_s, short.longest_s, gpu.longest_s) == (0, 600, 172_800)
    assert (gpu.nodes, gpu.nodes_free) == (6, 2)
    assert (gpu.cores, gpu.cores_free) == (40 + 40 + 8 + 40 + 40, 30 + 40 + 40)
    assert (gpu.gpus, gpu.gpus_free) == (20, 1 + 4 + 4)


@pytest.mark.parametrize("state", ["idle*", "mixed*", "allocated*"])
def test_a_node_that_does_not_respond_gives_nothing(state: str) -> None:
    """Slurm marks it by `*` at once; its word and its cores it keeps until SlurmdTimeout."""
    nodes = (
        f"n1|gpu|{state}|10/30/0/40|gpu:v100:4|gpu:v100:1(IDX:0)|1:00:00|\n"
        "n2|gpu*|idle|0/40/0/40|gpu:v100:4|gpu:v100:0(IDX:N/A)|1:00:00|\n"
    )
    (gpu,) = parsing.load(nodes, "")
    assert (gpu.name, gpu.nodes, gpu.nodes_free) == ("gpu", 2, 1)
    assert (gpu.cores, gpu.cores_free, gpu.gpus, gpu.gpus_free) == (40, 40, 4, 4)


# --- ended jobs -----------------------------------------------------------------------

SHOWN = (
    "JobId=15 JobName=canc UserId=root(0) JobState=CANCELLED Reason=Priority Dependency=(null) "
    "Requeue=1 Restarts=3 ExitCode=0:0 SubmitTime=2026-11-26T01:40:37 "
    "StartTime=2026-11-26T01:40:45 EndTime=2026-11-26T01:40:45 Partition=debug NodeList= "
    "NumNodes=1 WorkDir=/tmp/x\n"
)


def test_a_job_that_scontrol_shows() -> None:
    view = parsing.shown(SHOWN, 0)
    assert view is not None
    assert (view.submitted_at, view.restarts) == (1795657237.0, 3)
    assert (view.id, view.name, view.end_reason) == ("15", "canc", EndReason.CANCELLED)
    ran = SHOWN.replace("NodeList=", "BatchHost=n1").replace("CANCELLED", "NODE_FAIL")
    assert parsing.shown(ran, 0) is not None
    assert parsing.shown(ran, 0).end_reason is EndReason.NODE_FAILURE  # type: ignore[union-attr]
    assert parsing.shown("", 0) is None
    assert parsing.shown("slurm_load_jobs error: Invalid job id specified\n", 0) is None


@pytest.mark.parametrize(
    "name", ["canc UserId=root(0) JobState=RUNNING", "canc x", "x JobName=canc"]
)
def test_a_name_with_blanks_counts_as_no_name(name: str) -> None:
    """Whatever its owner made it look like; a number alone is nobody's."""
    view = parsing.shown(SHOWN.replace("JobName=canc", f"JobName={name}"), 0)
    assert view is not None
    assert view.name == ""


def test_a_job_of_another_account_is_not_ours() -> None:
    view = parsing.shown(SHOWN, 1000)
    assert view is not None
    assert (view.id, view.name) == ("15", "")


def test_jobs_that_accounting_remembers() -> None:
    """`sacct -P -o JobIDRaw,State,ExitCode,Start,End,NodeList,Submit,JobName` as documented."""
    taken, times = "2026-11-26T01:40:37", "2026-11-26T01:40:45|2026-11-26T01:40:46"
    output = (
        f"15|CANCELLED by 1000|0:0|{times}|None assigned|{taken}|a|b\n"
        f"16|CANCELLED by 1000|0:15|{times}|n1|{taken}|x\n"
        f"17|OUT_OF_MEMORY|0:125|{times}|n1|{taken}|x\n"
        f"18|RUNNING|0:0|2026-11-26T01:40:45|Unknown|n1|{taken}|x\n"
        f"19|TIMEOUT|0:0|{times}|n1|{taken}|x\n"
    )
    views = {view.id: view for view in parsing.accounted(output)}
    assert {i: v.end_reason for i, v in views.items()} == {
        "15": EndReason.CANCELLED,
        "16": EndReason.STOPPED,
        "17": EndReason.OUT_OF_MEMORY,
        "19": EndReason.WALLTIME,
    }
    assert (views["15"].name, views["15"].submitted_at) == ("a|b", 1795657237.0)
