"""Several processes behave as one server."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.runs.exports import Models
from tests.served import FOLDER, ask, picture, publish, until

ROOT = Path(__file__).parents[3]


def metric(port: int, name: str) -> list[float]:
    text = ask(port, path="/metrics", method="GET")[1].decode()
    return [float(value) for value in re.findall(rf"^{name}(?:{{worker=.*?}})? (\S+)$", text, re.M)]


@pytest.mark.heavy
def test_workers_share_a_port_and_counters_follow_versions_and_are_replaced():
    publish()
    publish(seed=1, current=False)
    command = [sys.executable, "-m", "src.cli", "serve", str(FOLDER), "--port=0", "--workers=2", "--drain=0.5"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        port = int(re.search(r":(\d+)$", server.stderr.readline())[1])
        until(lambda: metric(port, "serve_version") == [1, 1], 60)
        for i in range(40):
            assert ask(port, picture(i))[0] == 200
        assert metric(port, "serve_request_seconds_count") == [40]
        Models(FOLDER).use(2)
        until(lambda: metric(port, "serve_version") == [2, 2])
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(workers) == 2
        until(lambda: Path(f"/proc/{workers[0]}").stat().st_ctime < time.time() - 5.5)
        os.kill(workers[0], signal.SIGKILL)
        until(lambda: metric(port, "serve_version") == [2, 2], 60)
        assert metric(port, "serve_request_seconds_count") == [40]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.stderr.close()
