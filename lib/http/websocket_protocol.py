"""WebSockets as the portal and the notebooks' servers take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from asyncio import TimerHandle


class PatientWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's, that lets a client finish what it is sending before it is cut.

    uvicorn 0.54 closes at once at a message that is too long. What came after that makes the
    system reset the connection, and Chromium then says 1006 instead of the code it was sent.
    """

    #: How long a client that broke the rules may go on sending; all of it is thrown away.
    linger_s = 10.0
    close_timer: TimerHandle | None

    def handle_parser_exception(self) -> None:
        if self.close_sent:
            return
        closed = self.conn.close_sent
        code, reason = (closed.code, closed.reason) if closed is not None else (1006, "")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.linger_s, self.transport.close)
