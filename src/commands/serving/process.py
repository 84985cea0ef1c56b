"""One process of the server: uvicorn with deadlines for connections, and a drain before it stops."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from time import monotonic
from types import FrameType
from typing import Any

import uvicorn

from src.commands.serving.app import App
from src.commands.serving.connection import HEAD_SECONDS, Connection
from src.commands.serving.settings import Settings

try:
    from uvloop import Loop as BaseLoop
except ModuleNotFoundError:  # on Windows
    from asyncio import SelectorEventLoop as BaseLoop  # type: ignore[assignment]

IDLE_SECONDS = 60  # between two requests of a connection
BACKLOG = 2048
LAST_SECONDS = 20  # for requests that have begun when the server stops
SWITCH_SECONDS = 0.001  # the model's thread waits so long for Python; with Python's 0.005, an eighth fewer requests


class Loop(BaseLoop):
    """An event loop whose servers drop clients that do not finish a TLS handshake; uvicorn has no option for that."""

    def create_server(self, *args: Any, **options: Any) -> Any:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = HEAD_SECONDS
        return super().create_server(*args, **options)


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
        if sig != signal.SIGTERM and self.supervised:
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
    sys.setswitchinterval(SWITCH_SECONDS)

    async def serve() -> None:
        if hasattr(signal, "SIGHUP"):  # of a closed terminal
            with suppress(ValueError):  # outside of the main thread, in tests
                signal.signal(signal.SIGHUP, server.handle_exit)
        follower = asyncio.create_task(server.app.follow())
        await server.serve([listener])
        follower.cancel()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(serve())
    server.app.log.flush()
