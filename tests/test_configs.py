"""Every config runs: on real data where it is there, else on made-up data of the same shape."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from src.cli import main
from src.data import MNIST

ROOT = Path(__file__).parents[1]
REAL_MNIST = ROOT.parent / "shared/data/mnist"
TWO_BATCHES = ["--trainer.fast_dev_run=2"]


def made_up_pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 3)):
        for name in "abcdefghij":
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(
                    folder / part / name / f"{i}.png"
                )


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_config_trains_and_tests(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = yaml.safe_load(file.read_text())["data"]["class_path"]
    typed = list(TWO_BATCHES)
    if kind == "src.data.ImageFolder":
        made_up_pictures(Path("pictures"))
        typed += ["--data.root=pictures", "--data.folds=10", "--data.batch_size=100"]
    if kind == "src.data.MNIST":

        def load(self: MNIST, train: bool) -> tuple[Tensor, Tensor]:
            self.class_names = [str(i) for i in range(10)]
            count = 600 if train else 100
            return torch.randint(0, 255, (count, 1, 28, 28), dtype=torch.uint8), torch.arange(count) % 10

        monkeypatch.setattr(MNIST, "prepare_data", lambda _: None)
        monkeypatch.setattr(MNIST, "load", load)
    cli = main(["fit", f"--config={file}", *typed])
    assert cli.trainer.global_step == 2


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="real MNIST is not there")
def test_real_mnist_is_learnt() -> None:
    typed = [
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=150",
        "--model.warmup_steps=20",
        "--data.batch_size=64",
    ]
    cli = main(["fit", "--config=configs/mnist.yaml", f"--data.root={REAL_MNIST}", *typed])
    assert len(cli.datamodule.parts["train"]) == 55_000
    assert len(cli.datamodule.parts["test"]) == 10_000
    assert cli.trainer.callback_metrics["test/accuracy"] > 0.95
