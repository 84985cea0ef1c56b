"""Tests of what the process does with freed memory, and of how much it keeps."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.cli import main
from src.memory import importing
from src.tasks import Task

ROOT = Path(__file__).parents[1]

PROGRAM = """
import resource, sys
from src.memory import keep_freed

if sys.argv[1] == "keep":
    keep_freed()
import torch

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own allocator")
def test_memory_that_was_freed_is_not_asked_of_the_kernel_again() -> None:
    env = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}  # set by other tests
    plain, kept = (
        int(subprocess.check_output([sys.executable, "-c", PROGRAM, how], cwd=ROOT, env=env))
        for how in ("plain", "keep")
    )
    assert plain > 1000
    assert kept < plain / 10


def test_what_is_imported_is_never_looked_through_for_garbage_and_what_is_made_later_is() -> None:
    gc.unfreeze()
    with importing():
        assert not gc.isenabled()
    frozen = gc.get_freeze_count()
    assert gc.isenabled()
    assert frozen > 10_000
    made: list[list] = [[] for _ in range(20_000)]
    with importing():
        pass
    assert made
    assert gc.get_freeze_count() <= frozen
    gc.unfreeze()


def test_a_run_holds_its_data_once_and_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []  # bytes of all tensors, after each epoch

    def tensors() -> int:
        gc.collect()
        storages = [each.untyped_storage() for each in gc.get_objects() if type(each) is torch.Tensor]
        return sum({each.data_ptr(): each.nbytes() for each in storages}.values())

    def count(task: Task) -> None:
        means(task)
        held.append(tensors())

    means = Task.on_train_epoch_end
    monkeypatch.setattr(Task, "on_train_epoch_end", count)
    typed = ["--model.net.width=2", "--trainer.max_epochs=20", "--test=false", "--trainer.limit_train_batches=4"]
    before = tensors()  # of other tests
    cli = main(["fit", "--config=configs/digits.yaml", *typed])
    pixels = cli.datamodule.parts["train"].images.nbytes
    assert len(held) == 20
    assert max(held[2:]) - held[2] < 0.01 * held[2]
    assert held[2] - before < 2 * pixels
