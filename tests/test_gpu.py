"""On a GPU, runs train, resume and evaluate as on a CPU, and the CPU never waits for the GPU in a step."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

from src.cli import main
from src.tasks import Task
from tests.conftest import same

pytestmark = pytest.mark.usefixtures("gpu")
DIGITS = ["fit", "--config=configs/digits.yaml", "--trainer.max_epochs=1"]
RUNS = Path("runs/digits")


def preset(name: str) -> str:
    return f"--config=configs/presets/{name}.yaml"


class ForbidWaiting(Callback):
    """Let everything fail that makes the CPU wait for the GPU, from the second step of an epoch to its last."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 0 else "default")

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:  # noqa: ARG002
        if trainer.is_last_batch:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["gpu", "ema", "clip", "mixup", "accumulate", "muon"])
def test_the_cpu_does_not_wait_for_the_gpu_in_a_step(name: str) -> None:
    augment = "[{class_path: src.data.AlternatingFlip}, {class_path: src.data.RandomCrop}]"
    args = [*DIGITS, preset(name), "--test=false", "--trainer.log_every_n_steps=1000", f"--data.augment={augment}"]
    try:
        x = main([*args, f"--trainer.callbacks+={__name__}.ForbidWaiting"])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.data is not None
    assert x.trainer.strategy.root_device.type == x.data.splits["train"].images.device.type == "cuda"


@pytest.mark.parametrize("name", ["gpu", "bf16", "fp16", "channels_last", "checkpointing"])
def test_each_precision_and_layout_learns(name: str) -> None:
    main([*DIGITS, preset(name), "--trainer.max_epochs=3"])
    assert json.loads((RUNS / "version_0/results.json").read_text())["test/accuracy"] > 0.8


def test_validation_and_test_on_the_cpu_agree_with_those_on_the_gpu() -> None:
    main(DIGITS)
    on_gpu = json.loads((RUNS / "version_0/results.json").read_text())
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
