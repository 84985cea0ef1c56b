"""A connection of uvicorn with deadlines and limits."""

import re
from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from src.commands.serving.messages import encode

CONNECTIONS = 200
HEAD_SECONDS = 5.0  # for the first head of a connection, or for the rest of a later one
WRITE_SECONDS = 10.0  # for a client to take its reply
LARGEST_HEAD = 65_536  # bytes
UPGRADE = re.compile(rb"(?<=\n)upgrade(?= *:)", re.I)  # with which clients offer HTTP/2, as curl --http2 does
PIPELINED = 256  # requests of a connection that wait for the reply to an earlier one


class Connection(HttpToolsProtocol):
    """A connection that is closed if it takes too long, and that knows whether its client has left."""

    gone = False
    part = ""  # of a request that is not complete: head or body
    head: TimerHandle | None = None  # while a head is expected
    writing: TimerHandle | None = None  # while the client does not read
    head_size = 0
    idle_since: float | None = None  # between two requests

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            idle = [each for each in self.connections if isinstance(each, Connection) and each.idle_since]
            if not idle:
                self.refuse(503, "too many connections: try again")
                return
            min(idle, key=lambda each: each.idle_since or 0).transport.close()
        self.expect_head()

    def expect_head(self) -> None:
        self.head, self.head_size = self.loop.call_later(HEAD_SECONDS, self.transport.abort), 0

    def data_received(self, data: bytes) -> None:
        part, self.idle_since = self.part, None
        if part != "body" and b"pgrade" in data:  # the parser would take the body for another protocol
            head, end, rest = data.partition(b"\r\n\r\n")
            data = UPGRADE.sub(b"x-upgrade", head) + end + rest
        super().data_received(data)
        if len(self.pipeline) > PIPELINED:
            self.transport.abort()
        if self.transport.is_closing():
            return
        if self.head is None and (self.cycle is None or self.cycle.response_complete):
            self.expect_head()
        if self.head is not None and part != "body":  # which a refused request may still send
            self.head_size += len(data)
            if self.head_size > LARGEST_HEAD:
                self.refuse(431, f"the head may have at most {LARGEST_HEAD:,} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"], self.part = self, "head"

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.part = ""

    def on_headers_complete(self) -> None:
        self.part = "body"
        if self.head is not None:
            self.head.cancel()
            self.head = None
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.idle_since = self.loop.time() if self.cycle and self.cycle.response_complete else None
        if self.transport.is_closing() and self.writing is None:
            self.pause_writing()  # until what is left has been read

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writing = self.writing or self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.writing is not None:
            self.writing.cancel()
            self.writing = None

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        for timer in (self.head, self.writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection when it is idle; the head that a new one expects may still come."""
        if self.head is None:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        if self.cycle and not self.cycle.more_body and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # the reply to the request before ends the connection
        else:
            self.refuse(400, msg)

    def refuse(self, status: int, text: str) -> None:
        """Send one line of error, as the application does, and close the connection."""
        self.app.metrics.request(status)
        body = f"{encode({'error': text})}\n"
        lines = [f"HTTP/1.1 {status} Refused", "content-type: application/json", f"content-length: {len(body)}"]
        lines += ["connection: close", *(["retry-after: 1"] if status == 503 else []), "", body]
        self.transport.write("\r\n".join(lines).encode())
        self.transport.close()
