"""Autoencoder: means over images for any batches, data without targets, several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src import load_run
from src.cli import main
from src.data import Digits
from tests.conftest import ROOT, refused

FIT = ["fit", "--config=configs/digits_autoencoder.yaml", "--trainer.max_epochs=1"]
RUN = Path("runs/digits_autoencoder/version_0")


class Bare(Digits):
    """The digits without targets."""

    def load(self, train: bool) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        self.class_names = None
        return super().load(train)[0], None


@pytest.mark.heavy
@pytest.mark.parametrize("size", [2, 50])
def test_images_without_targets_are_restored(size: int) -> None:
    main([*FIT, "--data=tests.tasks.test_autoencoder.Bare", f"--data.batch_size={size}"])
    task, data = load_run(RUN, trust=True)
    data.setup("test")
    images = data.normalize(data.splits["test"].images)
    with torch.no_grad():
        error = (task(images) - images).double().square().mean().item()
    assert json.loads((RUN / "results.json").read_text(encoding="utf-8"))["test/loss"] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("image_shape=[1,9,9]", "image_shape must be (1, 8, 8), that of the data, got (1, 9, 9)"),
        ("code_size=0", "sizes must be at least 1, got"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(setting: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *FIT, f"--model.{setting}")


@pytest.mark.heavy
def test_two_processes_log_the_mean_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    main(FIT)
    capsys.readouterr()
    main(["validate", f"--run={RUN}"])
    alone = capsys.readouterr().out
    command = [sys.executable, "-m", "src.cli", "validate", f"--run={RUN}", "--trainer.accelerator=cpu"]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    losses = [next(line for line in text.splitlines() if line.startswith("loss")) for text in (alone, done.stdout)]
    assert losses[0] == losses[1]
