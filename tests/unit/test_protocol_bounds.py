"""Bounds of what is decoded: each field says its own, and the codec holds it to that."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from lib.errors import InvalidInput, NotFound, ProtocolError, SceneBridgeError
from lib.gate.job_record import JobRecord
from lib.gate.state_dir import RunningGate
from lib.jobs.control_files import SessionSpec
from lib.model import Endpoint
from lib.model.bounds import CheckedByReader, Json, UpTo, Within, outside
from lib.protocol import messages
from lib.protocol.codec import LEFT_OUT, decode, encode, read_reply
from lib.protocol.messages import GateInfo, WatchMessage
from lib.tunnels.outer.records import TunnelRecord
from lib.tunnels.outer.supervisor import SealReport, StartReply, StartRequest
from tests.fakes import lying_gate as lying

DECODED: tuple[type, ...] = (
    *messages.REQUESTS.values(), GateInfo, messages.SubmitReply, messages.CancelReply,
    messages.LogReply, messages.GetReply, messages.PutReply, WatchMessage, Endpoint,
    JobRecord, RunningGate, SessionSpec, TunnelRecord, StartRequest, StartReply, SealReport,
)  # fmt: skip
JOB = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize("kind", DECODED)
def test_every_field_that_is_decoded_says_its_bound(kind: type) -> None:
    for path, hint in lying.places(kind):
        found, bounds = lying.unwrapped(hint)
        needed: Any = {str: UpTo, int: Within, float: Within, object: (Json, CheckedByReader)}.get(
            found
        )
        if getattr(found, "__origin__", None) is list:
            needed = UpTo
        elif getattr(found, "__origin__", None) is dict:
            needed = (UpTo, Json)
        if needed is not None:
            assert any(isinstance(b, needed) for b in bounds), (kind, path)


@pytest.mark.parametrize("kind", DECODED)
def test_no_field_takes_what_is_out_of_bounds(kind: type[Any]) -> None:
    honest = lying.honest(kind)
    true = decode(kind, lying.line(honest))
    for path, hint in lying.places(kind):
        if CheckedByReader in map(type, lying.unwrapped(hint)[1]):
            continue
        beyond = lying.beyond(hint)
        for lie in (*lying.OUTRAGEOUS, *beyond):
            if lie == "@long@" and lying.unwrapped(hint)[0] is str:
                continue  # one character too many is among `beyond`
            try:
                taken = decode(kind, lying.line(lying.put(honest, path, lie)), newer=True)
            except InvalidInput as exc:
                said = exc.message
            else:
                assert encode(taken) != encode(true), (path, "the lie was not told")
                said = " ".join(row.problem for row in getattr(taken, LEFT_OUT, ()))
            names = [step for step in path if isinstance(step, str)]
            assert names[-1] in said or said.startswith("not JSON"), (path, said[:200])
            assert len(said) < 500


def test_what_is_at_the_edge_of_its_bound_is_taken() -> None:
    honest = lying.job_status(JOB)
    low, high = 946_684_800, 4_102_444_800
    for value, taken in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
        message = lying.line(lying.watch_message({**honest, "keep_until": value}))
        found = decode(WatchMessage, message)
        assert [j.keep_until for j in found.jobs] == ([value] if taken else [])


def test_one_bad_row_costs_one_row() -> None:
    good, other = lying.job_status(JOB), lying.job_status(JOB.replace("1", "2"))
    said = lying.line(
        lying.watch_message({**good, "keep_until": 1e308}, other, 7, {**good, "id": 7})
    )
    found = decode(WatchMessage, said, newer=True)
    assert [job.id for job in found.jobs] == [other["id"]]
    assert [row.id for row in found.left_out] == [JOB, "", ""]
    assert found.left_out[0].problem == (
        "WatchMessage.jobs[0].keep_until must be a time from 2000 to 2100 in Unix seconds"
    )
    assert b"left_out" not in encode(found)
    presets = lying.gate_info()["presets"]
    info = decode(
        GateInfo, lying.line(lying.gate_info(presets=[{**presets[0], "cores": -1}, *presets]))
    )
    assert (len(info.presets), [row.id for row in info.left_out]) == (1, ["small"])


def test_nobody_else_says_what_was_left_out() -> None:
    said = lying.line(lying.watch_message(left_out=[{"id": JOB, "problem": "x"}]))
    assert decode(WatchMessage, said, newer=True).left_out == []
    with pytest.raises(InvalidInput, match="unknown field 'left_out'"):
        decode(WatchMessage, said)


def test_too_many_rows_cost_the_message() -> None:
    presets = lying.gate_info()["presets"] * 20_000
    with pytest.raises(InvalidInput, match=r"GateInfo\.presets must be a list of at most 200"):
        decode(GateInfo, lying.line(lying.gate_info(presets=presets)))


def test_a_refusal_is_bounded_too() -> None:
    with pytest.raises(NotFound, match="no such"):
        read_reply(
            GateInfo,
            lying.line({"ok": False, "error": {"code": "not-found", "message": "no such"}}),
        )
    for said in (*lying.OUTRAGEOUS, *lying.ODD):
        for reply in (
            said, {"ok": said}, {"ok": True, "result": said}, {"ok": False, "error": said},
            {"ok": False, "error": {"code": "refused", "message": said}},
            {"ok": False, "error": {"code": said, "message": ""}},
        ):  # fmt: skip
            with pytest.raises(SceneBridgeError) as caught:
                read_reply(GateInfo, lying.line(reply))
            assert isinstance(caught.value, ProtocolError) or said in lying.ODD
            assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [1, "x", None, True, 0.5]}, ""),
        ([math.nan], "x[0] is no finite number"),
        ({"a": {"b": -math.inf}}, "x.a.b is no finite number"),
        ({"n": 2**53 + 1}, "x.n is a very long number"),
        ([10**400], "x[0] is a very long number"),
        (["y" * 11], "x[0] is longer than 10 characters"),
        ({"\udfff": 1}, "x has a name that has characters that cannot be written"),
        ([[[[1]]]], "x[0][0][0] is more than 3 levels deep"),
        ([0] * 20, "x has more than 20 values"),
        ([[0] * 10, [0] * 10], "has more than 20 values"),
    ],
)
def test_json_of_any_kind_is_bounded(value: Any, says: str) -> None:
    found = outside(value, Json(depth=3, values=20, text=10), "x")
    assert found == says or (says and found.endswith(says))


def test_a_name_from_outside_is_shown_short_and_plain() -> None:
    found = outside({"\x1b]0;\n" + "k" * 400: math.nan}, Json(), "x")
    assert found.isprintable()
    assert len(found) < 250


def test_a_tunnel_s_record_is_bounded() -> None:
    honest = {
        "cluster": "far", "account": "ada", "state": "open", "seal": "sealed", "seal_note": "",
        "group": "", "person": "u", "login_node": "u@h", "gate_port": 1, "opened_at": 1e9,
        "until": 2e9, "pid": 7, "start": 1e9,
    }  # fmt: skip
    assert decode(TunnelRecord, json.dumps(honest)).until == 2e9
    for name in ("opened_at", "until", "start", "closed_at"):
        with pytest.raises(InvalidInput, match=rf"TunnelRecord\.{name} must be 0 or a time"):
            decode(TunnelRecord, json.dumps({**honest, name: 1e308}))
