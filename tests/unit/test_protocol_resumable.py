"""Resumable streams: wherever a connection is cut, nothing is lost, doubled or out of order, and
no side can make the other keep more than a window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.protocol.resumable import (
    GREETING_BYTES,
    Greeting,
    Hello,
    ResumableStream,
    Violation,
    _Pieces,
)

WINDOW = 24


def size(pieces: _Pieces) -> int:
    return sum(map(len, pieces._pieces)) + len(pieces._small)


class Side:
    """One side, what lies on the connection from it, and what it wrote and read in all."""

    def __init__(self) -> None:
        self.stream = ResumableStream(WINDOW)
        self.wire = b""
        self.wrote = b""
        self.read = b""

    def flush(self) -> None:
        self.wire += b"".join(self.stream.outgoing())


class Line:
    """Two sides and the connection between them, which moves as many bytes as it is told."""

    def __init__(self) -> None:
        self.sides = (Side(), Side())
        self.connect()

    def cut(self) -> None:
        for side in self.sides:
            side.wire = b""
            side.stream.detach()
            side.flush()
            assert not side.wire

    def connect(self) -> None:
        for side, other in (self.sides, self.sides[::-1]):
            side.stream.attach(other.stream.received)

    def write(self, which: int, data: bytes) -> None:
        side = self.sides[which]
        side.stream.write(data)
        side.wrote += b"" if side.stream.closed else data

    def move(self, which: int, count: int) -> None:
        side, other = self.sides[which], self.sides[1 - which]
        side.flush()
        part, side.wire = side.wire[:count], side.wire[count:]
        other.stream.feed(part)
        assert size(other.stream._unread) <= WINDOW
        assert size(side.stream._sent) <= WINDOW

    def read(self, which: int) -> bool:
        data = self.sides[which].stream.read()
        self.sides[which].read += data
        return bool(data)

    def settle(self) -> None:
        """Until nothing moves any more."""
        moved = True
        while moved:
            moved = False
            for which, side in enumerate(self.sides):
                side.flush()
                moved |= bool(side.wire)
                self.move(which, len(side.wire))
                while self.read(1 - which):
                    pass

    def check(self) -> None:
        for side, other in (self.sides, self.sides[::-1]):
            assert other.read == side.wrote
            assert side.stream.finished == other.stream.ended == side.stream.closed
            assert side.stream.kept <= WINDOW // 16


WHICH = st.integers(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), WHICH, st.binary(max_size=60)),
        st.tuples(st.just("move"), WHICH, st.integers(1, 50)),
        st.tuples(st.just("read"), WHICH),
        st.tuples(st.just("ping"), WHICH),
        st.tuples(st.just("close"), WHICH),
        st.just(("again",)),
    ),
    max_size=60,
)


@given(STEPS)
def test_what_was_written_is_read_whatever_happens_to_connections(
    steps: list[tuple[str, ...]],
) -> None:
    line = Line()
    for step, *given_ in steps:
        if step == "again":
            line.cut()
            line.connect()
        elif step == "ping":
            line.sides[int(given_[0])].stream.ping()
        elif step == "close":
            line.sides[int(given_[0])].stream.close()
        else:
            getattr(line, step)(*given_)
    line.settle()
    line.check()


def talk(cut_after: int) -> bool:
    """A fixed talk that fills windows and closes, cut after so many bytes; whether it was."""
    line = Line()
    moved, was_cut = 0, False
    for number in range(4):
        for which in (0, 1):
            line.write(which, bytes([65 + number]) * 17)
            if number == 3:
                line.sides[which].stream.close()
            line.sides[which].flush()
            while line.sides[which].wire:
                if moved == cut_after and not was_cut:
                    line.cut()
                    line.connect()
                    line.sides[which].flush()
                    was_cut = True
                line.move(which, 1)
                moved += 1
            line.read(1 - which)
    line.settle()
    line.check()
    return was_cut


def test_a_cut_at_every_byte_of_a_talk() -> None:
    cuts = 0
    while talk(cuts):
        cuts += 1
    assert cuts > 8 * 17


def test_a_side_that_never_tells_what_it_has_gets_a_window_and_no_more() -> None:
    line = Line()
    side = line.sides[0].stream
    line.write(0, b"x" * 10 * WINDOW)
    sent = b"".join(side.outgoing())
    assert sent.count(b"x") == WINDOW
    for _ in range(3):  # nor by coming again and again
        side.attach(WINDOW)
        assert b"x" not in b"".join(side.outgoing())
    assert side.kept == 9 * WINDOW, "what has arrived is not needed any more"


def test_many_small_pieces_cost_little_more_than_their_bytes() -> None:
    """Who writes or sends a byte at a time makes neither side keep an object for each."""
    one, other = ResumableStream(), ResumableStream()
    one.attach(0)
    other.attach(0)
    for _ in range(200_000):
        one.write(b"x")
        other.feed(b"".join(one.outgoing()))
    for pieces in (one._sent, other._unread):
        assert size(pieces) == 200_000
        assert len(pieces._pieces) < 10


def data(count: int) -> bytes:
    return b"D" + count.to_bytes(4, "big") + b"x" * count


def ack(number: int) -> bytes:
    return b"A" + number.to_bytes(8, "big")


@pytest.mark.parametrize(
    "bad",
    [
        b"?",
        b"\x00",
        data(0),
        data(WINDOW + 1),
        b"D\xff\xff\xff\xff",
        data(WINDOW) + data(1),
        b"F" + data(1),
        b"FF",
        ack(6),
        ack(2**64 - 1),
        ack(4) + ack(3),
    ],
)
def test_what_breaks_the_rules_is_refused(bad: bytes) -> None:
    stream = ResumableStream(WINDOW)
    stream.attach(0)
    stream.write(b"12345")
    stream.outgoing()
    with pytest.raises(Violation):
        stream.feed(bad)


@pytest.mark.parametrize("claim", [3, 6, 2**64 - 1])
def test_who_says_to_have_what_was_forgotten_or_never_sent_changes_nothing(claim: int) -> None:
    stream = ResumableStream(WINDOW)
    stream.attach(0)
    stream.write(b"12345")
    stream.outgoing()
    stream.feed(ack(4))
    with pytest.raises(Violation):
        stream.attach(claim)
    stream.attach(4)
    assert b"".join(stream.outgoing()).endswith(b"D\0\0\0\x015")


def test_a_reset_ends_what_was_under_way() -> None:
    stream = ResumableStream(WINDOW)
    stream.attach(0)
    stream.feed(data(3) + b"X" + data(3))
    assert stream.was_reset
    assert stream.received == 3


@given(st.binary(min_size=GREETING_BYTES, max_size=GREETING_BYTES))
def test_any_bytes_are_a_greeting_or_none(raw: bytes) -> None:
    try:
        read = Greeting.decode(raw)
    except Violation:
        assert raw[:1] not in b"ORWU"
    else:
        assert read.encode() == raw


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_frames_or_a_violation(chunks: list[bytes]) -> None:
    stream = ResumableStream(WINDOW)
    stream.attach(0)
    try:
        for chunk in chunks:
            stream.feed(chunk)
            assert size(stream._unread) <= WINDOW
    except Violation:
        pass


def test_a_greeting_is_as_the_other_side_reads_it() -> None:
    assert Greeting(Hello.RESUME, b"i" * 16, 258).encode() == b"R" + b"i" * 16 + bytes(6) + b"\1\2"
