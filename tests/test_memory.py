"""Tests of what the process does with freed memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
