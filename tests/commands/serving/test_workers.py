"""Several processes behave as one server."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from src.commands.serving import workers
from src.commands.serving.settings import Settings
from src.runs.exports import Models
from tests.conftest import PATH
from tests.served import FOLDER, ask, picture, publish, until


def metric(port: int, name: str) -> list[float]:
    text = ask(port, path="/metrics", method="GET")[1].decode()
    return [float(value) for value in re.findall(rf"^{name}(?:{{worker=.*?}})? (\S+)$", text, re.M)]


@pytest.mark.heavy
def test_workers_share_a_port_and_counters_follow_versions_and_are_replaced():
    publish()
    publish(seed=1, current=False)
    command = [sys.executable, "-m", "src.cli", "serve", str(FOLDER), "--port=0", "--workers=2", "--drain=0.5"]
    environment = os.environ | PATH
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        port = int(re.search(r":(\d+)$", server.stderr.readline())[1])
        until(lambda: metric(port, "serve_version") == [1, 1], 60)
        for i in range(40):
            assert ask(port, picture(i))[0] == 200
        assert metric(port, "serve_request_seconds_count") == [40]
        Models(FOLDER).use(2)
        until(lambda: metric(port, "serve_version") == [2, 2])
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="utf-8").split()
        pids = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(pids) == 2
        until(lambda: Path(f"/proc/{pids[0]}").stat().st_ctime < time.time() - 5.5)
        os.kill(pids[0], signal.SIGKILL)
        until(lambda: metric(port, "serve_version") == [2, 2], 60)
        assert metric(port, "serve_request_seconds_count") == [40]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.stderr.close()


class Started:
    """A process that gets a signal, as this one does, while it starts."""

    sentinel, exitcode = 0, -15
    signal_at: int | None = None
    all: ClassVar[list["Started"]] = []

    def __init__(self, **_: object) -> None:
        self.alive = True

    def start(self) -> None:
        Started.all.append(self)
        if len(Started.all) == Started.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def terminate(self) -> None:
        self.alive = False

    def is_alive(self) -> bool:
        return self.alive


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_signal_while_a_worker_starts_ends_all(at, monkeypatch):
    monkeypatch.setattr(workers, "wait", lambda *_: time.sleep(0.01))
    monkeypatch.setattr(Started, "all", [])
    monkeypatch.setattr(Started, "signal_at", at)
    before = {number: signal.getsignal(number) for number in workers.SIGNALS}
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        supervisor = workers.Supervisor(Settings(FOLDER), listener, 3)
        supervisor.context = SimpleNamespace(Process=Started)
        supervisor.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert [each.alive for each in Started.all] == [False] * at
    assert listener.fileno() == -1


@pytest.mark.heavy
def test_an_interrupt_while_workers_start_prints_no_traceback():
    publish()
    command = [sys.executable, "-m", "src.cli", "serve", str(FOLDER), "--port=0", "--workers=2", "--drain=0"]
    environment = os.environ | PATH
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    announced = [server.stderr.readline() for _ in range(2)]
    time.sleep(0.1)
    os.killpg(server.pid, signal.SIGINT)  # as a terminal does
    assert (server.wait(30), server.stderr.read()) == (0, ""), announced
    server.stderr.close()
