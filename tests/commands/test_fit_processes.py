"""fit in processes of its own: two of them, and one whose output nobody reads."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from src import UserError
from src.cli import main
from tests.conftest import PATH, SMALL, needs_posix, rows, same, weights

RUN = Path("runs/digits/version_0")
ENVIRONMENT = os.environ | PATH | {"OMP_NUM_THREADS": "1"}
TWO_PROCESSES = ["--config=configs/presets/ddp.yaml", "--trainer.accelerator=cpu", "--trainer.devices=2"]


def command_line(*args: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "src.cli", *args]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


@needs_posix
def test_a_run_continues_when_nobody_reads_what_it_prints() -> None:
    command = f"{sys.executable} -m src.cli fit {' '.join(SMALL)} --test=false | head -1"
    done = subprocess.run(command, shell=True, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.startswith("epoch 1/3")
    assert not done.stderr
    assert torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 2


@pytest.mark.heavy
def test_two_processes_train_and_test_as_one() -> None:
    done = command_line("fit", *SMALL, *TWO_PROCESSES)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^epoch \d/3", done.stdout, re.M)) == 3  # one process prints
    assert [folder.name for folder in Path("runs/digits").iterdir()] == ["version_0"]
    x = main(["test", f"--run={RUN}", "--trainer.devices=1", "--trainer.strategy=auto"])
    alone = {key: float(value) for key, value in x.trainer.callback_metrics.items()}
    results = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    assert {key: results[key] for key in alone} == pytest.approx(alone, abs=1e-5)  # each sample is counted once
    steps = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert steps == 3 * 11  # 1,293 samples, 2 x 64 in a step


TASKS = ["digits_autoencoder", "digits_masks", "digits_multilabel", "digits_retrieval", "digits_rotation", "diabetes"]


@pytest.mark.heavy
@pytest.mark.parametrize("name", TASKS)
def test_two_processes_test_each_task_as_one(name: str) -> None:
    done = command_line("fit", f"--config=configs/{name}.yaml", *TWO_PROCESSES, "--trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    run = Path(f"runs/{name}/version_0")
    x = main(["test", f"--run={run}", "--trainer.devices=1", "--trainer.strategy=auto"])
    alone = {key: float(value) for key, value in x.trainer.callback_metrics.items() if "reference" not in key}
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert len(alone) >= 1
    assert {key: results[key] for key in alone} == pytest.approx(alone, rel=1e-4, abs=1e-5)


@pytest.mark.heavy
def test_divided_weights_train_with_channels_last_and_pictures() -> None:
    presets = [f"--config=configs/presets/{name}.yaml" for name in ("channels_last", "pictures", "bf16")]
    done = command_line("fit", *SMALL, "--model.net=src.nets.SmallCNN", "--model.net.width=4", *presets, *WHOLE)
    assert done.returncode == 0, done.stderr
    assert [*RUN.glob("pictures/*.png")]


@pytest.mark.heavy
@pytest.mark.parametrize("callback", ["src.callbacks.EMA", "src.callbacks.SWA", "src.callbacks.Monitor"])
def test_callbacks_that_need_whole_weights_are_refused_in_one_line(callback: str) -> None:
    done = command_line("fit", *SMALL, *WHOLE, f"--trainer.callbacks+={callback}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {callback.rsplit('.', 1)[1]} needs whole weights and gradients")
    assert len(done.stderr.splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.heavy
@pytest.mark.parametrize("preset", ["ddp", "fsdp"])
def test_one_process_trains_a_net_with_batch_norm_with_each_strategy(preset: str) -> None:
    args = [f"--config=configs/presets/{preset}.yaml", "--trainer.devices=1", "--trainer.max_epochs=1"]
    done = command_line("fit", "--config=configs/digits.yaml", "--model.net.width=4", *args)
    assert done.returncode == 0, done.stderr


def trained_weights(version: int) -> dict[str, Tensor]:
    return weights(RUN.with_name(f"version_{version}"))


PLAIN = [
    "--model.net.dropout=0",
    "--model.optimizer=torch.optim.SGD",
    "--model.optimizer.lr=0.1",
    "--trainer.max_epochs=2",
]
WHOLE = ["--config=configs/presets/fsdp.yaml", *TWO_PROCESSES[1:]]  # gathers the weights of the net at once
FSDP = [*WHOLE, "--trainer.strategy.min_params=500"]
EMA = "--config=configs/presets/ema.yaml"


@pytest.mark.heavy
@pytest.mark.parametrize(
    "two",
    [TWO_PROCESSES, FSDP, WHOLE, [*TWO_PROCESSES, EMA]],
    ids=["ddp", "fsdp-layers", "fsdp-whole", "ddp-ema"],
)
def test_two_processes_of_32_train_like_one_of_64(two: list[str]) -> None:
    main(["fit", *SMALL, *PLAIN, *([EMA] if EMA in two else []), "--test=false"])
    done = command_line("fit", *SMALL, *PLAIN, *two, "--data.batch_size=32", "--test=false")
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(trained_weights(1), trained_weights(0), rtol=0, atol=1e-5)
    one, other = (
        [float(row["val/loss"]) for row in rows(RUN.with_name(f"version_{i}")) if row["val/loss"]] for i in (0, 1)
    )
    assert other == pytest.approx(one, abs=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("divided", [FSDP, WHOLE], ids=["layers", "whole"])
def test_divided_weights_resume_to_the_bit_and_are_tested_by_one_process(divided: list[str]) -> None:
    for args in (["--trainer.max_epochs=1"], ["--trainer.max_epochs=2"]):
        done = command_line("fit", *SMALL, *divided, *args, "--seed_everything=1")
        assert done.returncode == 0, done.stderr
    done = command_line("fit", f"--run={RUN}", "--trainer.max_epochs=2")
    assert done.returncode == 0, done.stderr
    assert same(trained_weights(0), trained_weights(1))
    x = main(["test", f"--run={RUN}", "--trainer.devices=1", "--trainer.strategy=auto"])
    results = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    alone = {key: float(value) for key, value in x.trainer.callback_metrics.items()}
    assert {key: results[key] for key in alone} == pytest.approx(alone, abs=1e-5)


@pytest.mark.heavy
def test_torchrun_with_one_agent_and_with_two_trains_as_lightnings_launcher() -> None:
    args = ["-m", "src.cli", "--", "fit", *SMALL, "--trainer.max_epochs=1", "--test=false", *TWO_PROCESSES[:2]]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    assert command_line(*args[3:], "--trainer.devices=2").returncode == 0
    one = [*torchrun, "--standalone", "--nproc_per_node=2", *args, "--trainer.devices=2"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"--rdzv_endpoint=127.0.0.1:{free.getsockname()[1]}"
    two = [*torchrun, "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=a", endpoint]
    two += [*args, "--trainer.devices=1", "--trainer.num_nodes=2"]
    for agents in ([one], [two, two]):
        started = [subprocess.Popen(each, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) for each in agents]
        for agent in started:
            _, err = agent.communicate(timeout=300)
            assert agent.returncode == 0, err
    assert len([*RUN.parent.iterdir()]) == 3
    assert same(trained_weights(0), trained_weights(1))
    assert same(trained_weights(0), trained_weights(2))


@pytest.mark.heavy
def test_another_number_of_processes_than_torchrun_started_is_one_line() -> None:
    job = {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "4"}
    job |= {"TORCHELASTIC_RUN_ID": "a", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29777"}
    command = [sys.executable, "-m", "src.cli", "fit", *SMALL, *TWO_PROCESSES]
    done = subprocess.run(command, env=ENVIRONMENT | job, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: You set `devices=2` and `num_nodes=1`")
    assert len(done.stderr.splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.heavy
def test_a_failure_in_two_processes_leaves_earlier_runs_unchanged(trained: Path) -> None:
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    done = command_line("fit", "--config=configs/digits.yaml", "--model.net.in_channels=3", *TWO_PROCESSES)
    assert done.returncode == 2
    assert "the net does not accept the data's images, (C, H, W) = (1, 8, 8)" in done.stderr
    assert [folder.name for folder in trained.parent.iterdir()] == ["version_0"]
    assert before == {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}


class FailsInOneProcess(Callback):
    """Raises a UserError in the second process only."""

    def on_train_batch_start(self, trainer: Any, *_: object) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 3:
            raise UserError("only this process fails")


@pytest.mark.heavy
def test_an_error_in_one_process_is_one_line_and_ends_both() -> None:
    callback = f"--trainer.callbacks+={__name__}.FailsInOneProcess"
    done = command_line("fit", *SMALL, *TWO_PROCESSES, callback)
    assert done.returncode == 2
    assert done.stderr == "error: only this process fails\n"


def test_two_dashes_let_torchrun_pass_on_run(trained: Path) -> None:
    assert main(["--", "validate", f"--run={trained}"]).run.path == trained


@pytest.mark.heavy
@pytest.mark.parametrize("shards", ["true", "false"], ids=["folder of shards", "one file"])
def test_a_model_split_over_two_processes_resumes_and_is_tested(shards: str) -> None:
    strategy = ["--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy"]
    sizes = {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": shards}
    strategy += [f"--trainer.strategy.{key}={value}" for key, value in sizes.items()]
    strategy += ["--trainer.strategy.process_group_backend=gloo", "--trainer.accelerator=cpu", "--trainer.devices=2"]
    args = ["--model=tests.spoilers.Sharded", "--data=src.data.Digits", "--name=digits", *strategy]
    for command in (
        ["fit", *args, "--trainer.max_epochs=1"],
        ["fit", f"--run={RUN}", "--trainer.max_epochs=2", "--test=false"],
        ["fit", *args, "--trainer.max_epochs=2"],
        ["test", f"--run={RUN}"],
    ):
        done = command_line(*command)
        assert done.returncode == 0, done.stderr
    kinds = {path.name: path.is_dir() for path in (RUN / "checkpoints").iterdir()}
    assert kinds == {"best.ckpt": shards == "true", "last.ckpt": shards == "true"}
    resumed, whole = (
        json.loads((run / "results.json").read_text(encoding="utf-8")) for run in (RUN, RUN.with_name("version_1"))
    )
    assert resumed["val/accuracy"] == whole["val/accuracy"] > 0.5
    assert f"{whole['test/accuracy']:.4f}" in done.stdout
