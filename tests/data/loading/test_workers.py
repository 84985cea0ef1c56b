"""Batches of workers arrive, whatever the system lacks, and a worker that ends early is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from src.config.errors import as_user_error
from src.data.loading.workers import Packed
from tests.conftest import needs_posix

ROOT = Path(__file__).parents[3]
TENSORS = [torch.arange(3), torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), torch.tensor([0.5, 1.5])]


@pytest.mark.parametrize("error", [None, OSError(24, "Too many open files"), RuntimeError("unable to allocate shm")])
def test_a_batch_arrives_with_and_without_shared_memory(error, monkeypatch):
    def fail(_tensors):
        raise error

    if error:
        monkeypatch.setattr("src.data.loading.workers.ForkingPickler.dumps", fail)
    for got, sent in zip(Packed.of(TENSORS).unpack(), TENSORS, strict=True):
        assert got.dtype == sent.dtype
        assert got.equal(sent)


def fill() -> None:
    for name in "ab":
        Path(f"data/train/{name}").mkdir(parents=True)
        for i in range(30):
            Image.new("L", (4, 4), 5 * i).save(f"data/train/{name}/{i}.png")


LIMITED = """
import resource, sys, torch, warnings
from src.data import ImageFolder
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
data = [ImageFolder(size=4, batch_size=2, in_memory=False, num_workers=each) for each in (0, 2)]
for each in data:
    each.setup("fit")
batches = [[*each.train_dataloader()] for each in data]
kept = [[images for images, _ in each] for each in batches]
print(all(a.equal(b) for a, b in zip(*kept, strict=True)))
"""


@needs_posix
@pytest.mark.heavy
def test_few_file_descriptors_do_not_stop_the_workers():
    fill()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "True\n", done.stderr


KILLED = """
import os, signal
from src.config.errors import as_user_error
from src.data import ImageFolder
data = ImageFolder(size=4, batch_size=2, in_memory=False, num_workers=1)
data.setup("fit")
loader = data.train_dataloader()
batches = iter(loader)
next(batches)
(worker,) = loader.workers._iterator._workers
text = ""
try:
    try:
        os.kill(worker.pid, signal.SIGKILL)
        list(batches)
    except (RuntimeError, OSError, EOFError) as error:
        text = str(as_user_error(error))
except RuntimeError as error:  # torch may raise at any time, in a signal handler
    text = text or str(as_user_error(error))
print(text, flush=True)
os._exit(0)
"""


@needs_posix
@pytest.mark.heavy
def test_a_killed_worker_is_one_line():
    fill()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", KILLED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.startswith("a process that reads data was killed, usually because memory"), done.stderr
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("received 0 items of ancdata")])
def test_too_many_open_files_are_one_line(error):
    assert "raise the limit with ulimit -n" in str(as_user_error(error))
