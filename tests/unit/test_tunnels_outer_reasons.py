"""What is made of the words that an open tunnel's ssh has written."""

from lib.tunnels.outer.reasons import last_line, lost

_NO_GATE = "channel 1: open failed: connect failed: Connection refused"


def test_a_gate_that_was_down_is_not_why_a_tunnel_ended() -> None:
    assert "somebody on this host may have ended it" in lost(last_line(f"{_NO_GATE}\n{_NO_GATE}"))


def test_the_last_that_ssh_said_is_told() -> None:
    assert "closed the connection" in lost(
        last_line(f"{_NO_GATE}\nConnection to nchc-login closed by remote host.")
    )
