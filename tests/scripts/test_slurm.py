"""scripts/slurm.sh starts tasks as srun does, saves before the time limit and resumes once requeued."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, SMALL, same

SCRIPT = ROOT / "scripts/slurm.sh"
# starts the tasks of one node; like SLURM, it sends a signal to all of them
SRUN = """#!{python}
import os, signal, subprocess, sys
tasks = []
for i in map(str, range(int(os.environ["SLURM_NTASKS"]))):
    mine = os.environ | {{"SLURM_PROCID": i, "SLURM_LOCALID": i, "SLURM_NODEID": "0", "SLURM_STEP_ID": "0"}}
    tasks.append(subprocess.Popen(sys.argv[2:], env=mine))
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""


def sbatch(*args: str, tasks: int = 1, **more: str) -> "subprocess.Popen[str]":
    """Start the script with commands of SLURM that are none."""
    folder = Path("bin")
    folder.mkdir(exist_ok=True)
    for name, text in {
        "srun": SRUN.format(python=sys.executable),
        "scontrol": '#!/bin/sh\necho "$@" >> requeued\n',
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    job = {
        "SLURM_NTASKS": str(tasks),
        "SLURM_NTASKS_PER_NODE": str(tasks),
        "SLURM_NNODES": "1",
        "SLURM_JOB_ID": "20123",
    }
    job |= {"SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_NAME": "train", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    job |= {"PATH": f"{folder.absolute()}:{os.environ['PATH']}", "PYTHON": sys.executable}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(["bash", SCRIPT, *args], env=os.environ | job | more, text=True, **streams)


def test_tasks_get_their_arguments_and_the_counts_of_the_job() -> None:
    words = ["fit", "--config", "a file.yaml"]
    out, _ = sbatch(*words, tasks=2, PYTHON="/bin/echo").communicate()
    assert out.splitlines() == ["-m src.cli fit --config a file.yaml --trainer.devices=2 --trainer.num_nodes=1"] * 2
    out, _ = sbatch("search", "--config", "c.yaml", PYTHON="/bin/echo").communicate()
    assert out == "-m src.cli search --config c.yaml\n"


@pytest.mark.parametrize("words", [[], ["--config", "a.yaml"], ["test"]])
def test_another_command_is_one_line(words: list[str]) -> None:
    process = sbatch(*words)
    _, err = process.communicate()
    assert process.returncode == 2
    assert err == "usage: sbatch [OPTIONS] scripts/slurm.sh fit|search --config FILE ...\n"


def test_the_job_asks_for_a_signal_a_requeue_and_one_log() -> None:
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SCRIPT.read_text(encoding="utf-8"), re.M))
    assert asked["signal"] == "SIGUSR1@60"
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert {"requeue", "open-mode"} <= asked.keys()


@pytest.mark.heavy
def test_a_job_of_two_tasks_is_requeued_and_ends_as_if_never_interrupted() -> None:
    args = [
        "fit",
        *SMALL,
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=40",
        "--last.every_n_steps=4",
        "--test=false",
    ]
    last = Path("runs/digits/version_0/checkpoints/last.ckpt")
    process = sbatch(*args, tasks=2)
    while not last.exists():
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGUSR1, err
    assert Path("requeued").read_text(encoding="utf-8") == "requeue 20123\n"
    stored = torch.load(last, weights_only=True)
    assert stored["epoch"] < 39
    for more in ({"SLURM_RESTART_COUNT": "1"}, {"SLURM_JOB_ID": "20124"}):  # requeued; another job, never interrupted
        process = sbatch(*args, tasks=2, **more)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    runs = [torch.load(f"runs/digits/version_{i}/checkpoints/last.ckpt", weights_only=True) for i in (0, 1)]
    assert same(runs[0]["state_dict"], runs[1]["state_dict"])


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("tasks", "devices", "expected"),
    [("4", "2", "--ntasks-per-node=4"), ("1", "2", "--ntasks-per-node=1"), ("2", "4", "--ntasks-per-node=2")],
)
def test_a_job_of_other_counts_than_the_trainer_is_one_line(tasks: str, devices: str, expected: str) -> None:
    typed = ["--trainer.accelerator=cpu", f"--trainer.devices={devices}", "--trainer.strategy=ddp"]
    job = {"SLURM_NTASKS": tasks, "SLURM_NTASKS_PER_NODE": tasks, "SLURM_NNODES": "1", "SLURM_JOB_ID": "20123"}
    job |= {
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_JOB_NAME": "train",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    command = [sys.executable, "-m", "src.cli", "fit", *SMALL, *typed]
    environment = os.environ | job | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr
    assert not Path("runs").exists()
