"""Several processes that share one listening socket, started again when one dies."""

import multiprocessing
import signal
import socket
import sys
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from src import UserError
from src.commands.serving.metrics import Metrics
from src.commands.serving.process import make_server, work
from src.commands.serving.settings import Settings
from src.runs.summary import echo

QUICK = 5.0  # seconds; a process that dies sooner would do so again


def supervise(settings: Settings, listener: socket.socket, workers: int) -> None:
    """Run worker processes until a signal, which each of them gets; end them all if one cannot start."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "metrics"
        Metrics.allocate(file, workers)
        Supervisor(replace(settings, metrics=file), listener, workers).run()


class Supervisor:
    """The processes of one server, by number; each gets the signals of this one."""

    def __init__(self, settings: Settings, listener: socket.socket, workers: int) -> None:
        self.settings, self.listener, self.stopping = settings, listener, False
        self.context = multiprocessing.get_context("spawn")
        self.running: dict[int, tuple[BaseProcess, float]] = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        for worker in range(workers):
            self.start(worker)

    def start(self, worker: int) -> None:
        process = self.context.Process(target=child, args=(self.settings, self.listener, worker))
        process.start()
        self.running[worker] = process, monotonic()

    def stop(self, *_args: Any) -> None:
        self.stopping = True
        self.listener.close()  # each worker has its own copy; nobody would accept from this one
        for process, _ in self.running.values():
            process.terminate()

    def run(self) -> None:
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
        if failed:
            raise UserError("the server stopped, because a worker died right after its start")


def child(settings: Settings, listener: socket.socket, worker: int) -> None:
    try:
        work(make_server(settings, worker, supervised=True), listener)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
