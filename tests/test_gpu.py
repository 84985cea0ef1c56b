"""On a GPU, runs train, resume and evaluate as on a CPU, and the CPU never waits for the GPU in a step."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

from src.cli import main
from src.tasks import Task
from tests.conftest import PATH, same

pytestmark = [
    pytest.mark.usefixtures("gpu"),
    pytest.mark.filterwarnings(
        "ignore:GPU available but not used",
        "ignore:.*script_method",
        "ignore:TensorFloat32",
        "ignore:Synchronization debug",
        "ignore:The CUDA Graph is empty",
    ),
]
DIGITS = ["fit", "--config=configs/digits.yaml", "--trainer.max_epochs=1"]
RUNS = Path("runs/digits")


def preset(name: str) -> str:
    return f"--config=configs/presets/{name}.yaml"


class ForbidWaiting(Callback):
    """Let everything fail that makes the CPU wait for the GPU, except in the first step of an epoch and to log."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        logs = (trainer.global_step + 1) % trainer.log_every_n_steps == 0
        torch.cuda.set_sync_debug_mode("default" if batch_idx == 0 or logs else "error")

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:  # noqa: ARG002
        if trainer.is_last_batch:
            torch.cuda.set_sync_debug_mode("default")


def fit_without_waiting(*args: str) -> Any:
    try:
        return main([*args, "--trainer.log_every_n_steps=1000", f"--trainer.callbacks+={__name__}.ForbidWaiting"])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["gpu", "ema", "clip", "mixup", "accumulate", "muon"])
def test_the_cpu_does_not_wait_for_the_gpu_in_a_step(name: str) -> None:
    augment = "[{class_path: src.data.AlternatingFlip}, {class_path: src.data.RandomCrop}]"
    x = fit_without_waiting(*DIGITS, preset(name), "--test=false", f"--data.augment={augment}")
    assert x.trainer.strategy.root_device.type == x.data.splits["train"].images.device.type == "cuda"


@pytest.mark.parametrize("name", ["autoencoder", "masks", "multilabel", "retrieval", "rotation"])
def test_every_task_trains_without_waiting_and_evaluates_on_the_cpu_as_on_the_gpu(name: str) -> None:
    fit_without_waiting("fit", f"--config=configs/digits_{name}.yaml", "--trainer.max_epochs=2")
    run = Path(f"runs/digits_{name}/version_0")
    on_gpu = json.loads((run / "results.json").read_text(encoding="utf-8"))
    values = main(["test", f"--run={run}", "--trainer.accelerator=cpu"]).trainer.callback_metrics
    assert values
    for key, value in values.items():
        assert math.isclose(value, on_gpu[key], rel_tol=0.01, abs_tol=0.01), key


@pytest.mark.parametrize("name", ["gpu", "bf16", "fp16", "channels_last", "checkpointing", "compile", "cuda_graphs"])
def test_each_precision_and_layout_learns(name: str) -> None:
    main([*DIGITS, preset(name), "--trainer.max_epochs=3"])
    assert json.loads((RUNS / "version_0/results.json").read_text(encoding="utf-8"))["test/accuracy"] > 0.8


def test_validation_and_test_on_the_cpu_agree_with_those_on_the_gpu() -> None:
    main(DIGITS)
    on_gpu = json.loads((RUNS / "version_0/results.json").read_text(encoding="utf-8"))
    for command in ("validate", "test"):
        x = main([command, f"--run={RUNS}/version_0", "--trainer.accelerator=cpu"])
        for name, value in x.trainer.callback_metrics.items():
            assert math.isclose(value, on_gpu[name], rel_tol=1e-3), name


@pytest.mark.parametrize("step", [21, 25])
def test_an_interrupted_deterministic_run_resumes_bit_for_bit(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    args = [*DIGITS, preset("deterministic"), "--trainer.max_epochs=2", "--last.every_n_steps=5", "--test=false"]
    before = torch.are_deterministic_algorithms_enabled()
    try:
        main(args)
        with monkeypatch.context() as patch:
            patch.setattr(Task, "on_before_zero_grad", lambda task, *_: 1 / (task.global_step != step))
            with pytest.raises(ZeroDivisionError):
                main(args)
        main(["fit", f"--run={RUNS}/version_1"])
    finally:
        torch.use_deterministic_algorithms(before)
    once, twice = (
        torch.load(RUNS / f"version_{i}/checkpoints/last.ckpt", map_location="cpu", weights_only=True) for i in (0, 1)
    )
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert same(once[key], twice[key]), key


def test_a_batch_that_does_not_fit_into_memory_is_split_and_trains_the_same() -> None:
    net = ["--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]", "--model.net.hidden_sizes=[65536]"]
    sgd = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1", "--model.warmup_steps=0"]
    args = [*DIGITS, *net, *sgd, "--data.batch_size=1024", "--data.augment=null", "--test=false"]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    once = main(args).task
    peak, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.75 * peak / total)
    try:
        with pytest.warns(UserWarning, match="out of memory: splitting each batch into 2 micro-batches"):
            parts = main([*args, preset("micro_batches")]).task
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for (name, ours), theirs in zip(parts.named_parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_one_process_of_each_strategy_trains_resumes_and_predicts(name: str) -> None:
    commands = [
        [*DIGITS, preset(name), "--trainer.devices=1"],
        ["fit", f"--run={RUNS}/version_0", "--trainer.max_epochs=3"],
        ["predict", f"--run={RUNS}/version_0"],
    ]
    for command in commands:
        line = [sys.executable, "-m", "src.cli", *command]
        done = subprocess.run(line, env=os.environ | PATH, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((RUNS / "version_0/results.json").read_text(encoding="utf-8"))["test/accuracy"] > 0.8


def test_two_workers_of_a_search_share_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PATH["PYTHONPATH"])
    space = "--search.space={model.optimizer.lr: [0.002, 0.004, 0.008]}"
    main(["search", *DIGITS[1:], space, "--search.sampler=grid", "--workers=2"])
    trials = [
        json.loads(file.read_text(encoding="utf-8")) for file in Path("runs/search/digits").glob("trial_*/trial.json")
    ]
    assert [trial["state"] for trial in trials] == ["complete"] * 3
