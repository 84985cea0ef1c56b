"""One process of the server: uvicorn with deadlines for connections, and a drain before it stops."""

import asyncio
import os
import signal
import socket
from asyncio import TimerHandle
from contextlib import suppress
from functools import partial
from time import monotonic
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from src.commands.serving.app import App
from src.commands.serving.messages import encode
from src.commands.serving.settings import Settings

try:
    from uvloop import Loop as BaseLoop
except ModuleNotFoundError:  # on Windows
    from asyncio import SelectorEventLoop as BaseLoop  # type: ignore[assignment]

CONNECTIONS = 200
HEAD_SECONDS = 5.0  # for the first head of a connection, or for the rest of a later one
IDLE_SECONDS = 60  # between two requests of a connection
WRITE_SECONDS = 10.0  # for a client to take its reply
LARGEST_HEAD = 65_536  # bytes
PIPELINED = 256  # requests of a connection that wait for the reply to an earlier one
BACKLOG = 2048
LAST_SECONDS = 20  # for requests that have begun when the server stops


class Loop(BaseLoop):
    """An event loop whose servers drop clients that do not finish a TLS handshake; uvicorn has no option for that."""

    def create_server(self, *args: Any, **options: Any) -> Any:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = HEAD_SECONDS
        return super().create_server(*args, **options)


class Connection(HttpToolsProtocol):
    """A connection that is closed if it takes too long, and that knows whether its client has left."""

    gone = False
    part = ""  # of a request that is not complete: head or body
    head: TimerHandle | None = None  # while a head is expected
    writing: TimerHandle | None = None  # while the client does not read
    head_size = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self.refuse(503, "too many connections: try again")
        else:
            self.expect_head()

    def expect_head(self) -> None:
        self.head, self.head_size = self.loop.call_later(HEAD_SECONDS, self.transport.abort), 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(self.pipeline) > PIPELINED:
            self.transport.abort()
        if self.transport.is_closing():
            return
        if self.head is None and (self.cycle is None or self.cycle.response_complete):
            self.expect_head()
        if self.head is not None and self.part != "body":  # of a request that was refused, for example
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
        self.refuse(400, msg)

    def refuse(self, status: int, text: str) -> None:
        """Send one line of error, as the application does, and close the connection."""
        self.app.metrics.request(status)
        body = f"{encode({'error': text})}\n"
        lines = [f"HTTP/1.1 {status} Refused", "content-type: application/json", f"content-length: {len(body)}"]
        lines += ["connection: close", *(["retry-after: 1"] if status == 503 else []), "", body]
        self.transport.write("\r\n".join(lines).encode())
        self.transport.close()


class Server(uvicorn.Server):
    """Serves for a while after the first signal, with ``ready`` false, so that no request is lost."""

    def __init__(self, config: uvicorn.Config, app: App, supervised: bool) -> None:
        super().__init__(config)
        self.app, self.supervised = app, supervised
        self.parent, self.until = os.getppid(), 0.0
        self.last: list[asyncio.Task[Any]] = []

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that wait for that, which would be reset otherwise, and finish all requests."""
        state: dict[str, Any] = {"server_state": self.server_state, "app_state": self.lifespan.state}
        make, loop = partial(Connection, self.config, **state), asyncio.get_running_loop()
        for listener in sockets or []:
            copy = listener.dup()
            for server in self.servers:
                server.close()
            listener.close()
            await asyncio.sleep(0.01)  # the loop has closed the socket, but for the copy
            copy.setblocking(False)
            with copy, suppress(BlockingIOError):
                while True:
                    accepted, _ = copy.accept()
                    accepted.setblocking(False)
                    connect = loop.connect_accepted_socket(make, accepted, ssl=self.config.ssl)
                    self.last.append(loop.create_task(connect))
        await super().shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if sig == signal.SIGINT and self.supervised:
            return  # of the terminal, to all processes: the supervisor sends another
        if self.app.draining:
            self.should_exit = self.force_exit = True
        self.drain()

    def drain(self) -> None:
        if not self.app.draining:
            self.app.draining, self.until = True, monotonic() + self.app.settings.drain

    async def on_tick(self, counter: int) -> bool:
        self.app.metrics.set("connections", len(self.server_state.connections))
        if self.supervised and os.getppid() != self.parent:
            self.drain()
        if self.app.draining and monotonic() >= self.until:
            self.should_exit = True
        return await super().on_tick(counter)


def make_server(settings: Settings, worker: int = 0, supervised: bool = False) -> Server:
    """Load the models and return a server; a UserError if there is nothing to serve."""
    app = App(settings, worker)
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.private_key,
    )
    return Server(config, app, supervised)


def work(server: Server, listener: socket.socket) -> None:
    """Serve until a signal."""

    async def serve() -> None:
        follower = asyncio.create_task(server.app.follow())
        await server.serve([listener])
        follower.cancel()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(serve())
    server.app.log.flush()
