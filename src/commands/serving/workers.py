"""Several processes that share one listening socket, started again when one dies."""

import multiprocessing
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
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
POLL = 0.1  # seconds until a signal is passed on
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


def supervise(settings: Settings, listener: socket.socket, workers: int) -> None:
    """Run worker processes until a signal, which each of them gets; end them all if one cannot start."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "metrics"
        Metrics.allocate(file, workers)
        Supervisor(replace(settings, metrics=file), listener, workers).run()


class Supervisor:
    """The processes of one server, by number; each gets the signals of this one."""

    def __init__(self, settings: Settings, listener: socket.socket, workers: int) -> None:
        self.settings, self.listener, self.workers = settings, listener, workers
        self.context = multiprocessing.get_context("spawn")
        self.running: dict[int, tuple[BaseProcess, float]] = {}
        self.signals, self.passed_on = 0, 0  # a second one lets the workers stop at once
        for number in SIGNALS:
            signal.signal(number, self.note)

    def note(self, *_args: Any) -> None:
        self.signals += 1  # and no more: a worker may be starting

    def start(self, worker: int) -> None:
        process = self.context.Process(target=child, args=(self.settings, self.listener, worker))
        with blocked(signal.SIGINT):  # of the terminal, in the worker too, which gets SIGTERM instead
            process.start()
        self.running[worker] = process, monotonic()

    def stop(self) -> None:
        self.listener.close()  # each worker has its own copy; nobody would accept from this one
        self.passed_on += 1
        for process, _ in self.running.values():
            process.terminate()

    def run(self) -> None:
        failed = False
        for worker in range(self.workers):
            if not self.signals:
                self.start(worker)
        while self.running:
            wait([process.sentinel for process, _ in self.running.values()], POLL)
            while self.passed_on < self.signals:
                self.stop()
            for worker, (process, since) in [*self.running.items()]:
                if process.is_alive():
                    continue
                del self.running[worker]
                if self.passed_on:
                    continue
                echo(f"warning: worker {worker} died with exit code {process.exitcode}", sys.stderr)
                if monotonic() - since > QUICK:
                    self.start(worker)
                else:
                    failed = True
                    self.note()
        if failed:
            raise UserError("the server stopped, because a worker died right after its start")


@contextmanager
def blocked(number: int) -> Iterator[None]:
    """Let a signal wait; a process that starts meanwhile never gets it."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    resource_tracker.ensure_running()  # which ends with SIGINT not blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def child(settings: Settings, listener: socket.socket, worker: int) -> None:
    try:
        work(make_server(settings, worker, supervised=True), listener)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
