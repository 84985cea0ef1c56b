"""Several processes that share one listening socket, started again when one dies."""

import multiprocessing
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from types import FrameType

from src import UserError
from src.commands.serving.app import App
from src.commands.serving.metrics import Metrics
from src.commands.serving.process import work
from src.commands.serving.settings import Settings
from src.runs.summary import echo

QUICK = 5.0  # seconds; a process that dies sooner would do so again


def supervise(settings: Settings, listener: socket.socket, started: Callable[[], None], workers: int) -> None:
    """Run worker processes until a signal, which each of them gets; end them all if one cannot start."""
    App(settings)  # refuses in one line, in this process, what none of them could load
    with TemporaryDirectory() as folder:
        file = Path(folder) / "metrics"
        Metrics.allocate(file, workers)
        Supervisor(replace(settings, metrics=file), listener, workers).run(started)


class Supervisor:
    def __init__(self, settings: Settings, listener: socket.socket, workers: int) -> None:
        self.settings, self.listener, self.stopping = settings, listener, False
        self.context = multiprocessing.get_context("spawn")
        self.running: dict[int, tuple[BaseProcess, float]] = {}
        for worker in range(workers):
            self.start(worker)

    def start(self, worker: int) -> None:
        process = self.context.Process(target=child, args=(self.settings, self.listener, worker))
        process.start()
        self.running[worker] = process, monotonic()

    def stop(self, *_: int | FrameType | None) -> None:
        self.stopping = True
        for process, _ in self.running.values():
            process.terminate()

    def run(self, started: Callable[[], None]) -> None:
        handlers = {number: signal.signal(number, self.stop) for number in (signal.SIGTERM, signal.SIGINT)}
        started()
        failed = False
        while self.running:
            wait([process.sentinel for process, _ in self.running.values()], 0.5)
            for worker, (process, since) in [*self.running.items()]:
                if process.is_alive():
                    continue
                del self.running[worker]
                if self.stopping:
                    continue
                echo(f"warning: worker {worker} died with exit code {process.exitcode}", sys.stderr)
                if monotonic() - since > QUICK:
                    self.start(worker)
                else:
                    failed = True
                    self.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if failed:
            raise UserError("the server stopped, because a worker died right after its start")


def child(settings: Settings, listener: socket.socket, worker: int) -> None:
    try:
        work(settings, listener, lambda: None, worker, supervised=True)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
