"""A data module that draws its split in setup has the same one in every command."""

import json
from pathlib import Path

import pytest
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

from src.cli import main
from tests.conftest import SMALL, PlainModule

RUN = Path("runs/drawn/version_0")
QUIET = ["--trainer.max_epochs=3", "--trainer.accelerator=cpu", "--name=drawn"]
pytestmark = pytest.mark.filterwarnings("ignore:.*smaller than the logging")


class DrawnSplit(LightningDataModule):
    """Random labels, split by the global generator: a net knows the labels of its training samples only."""

    def setup(self, stage: str) -> None:  # noqa: ARG002
        generator = torch.Generator().manual_seed(0)
        images, targets = torch.randn(200, 64, generator=generator), torch.randint(10, (200,), generator=generator)
        self.subsets = random_split(TensorDataset(images, targets), [150, 50])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.subsets[0], 50, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.subsets[1], 50)

    test_dataloader = val_dataloader


class NoisyValidation(DrawnSplit):
    """Validates on other samples each time."""

    def val_dataloader(self) -> DataLoader:
        images, targets = torch.randn(50, 64, generator=self.generator), torch.randint(10, (50,))
        return DataLoader(TensorDataset(images, targets), 50)

    test_dataloader = val_dataloader
    generator = torch.Generator().manual_seed(1)


def test_fit_validate_and_test_see_the_same_split(capsys: pytest.CaptureFixture[str]) -> None:
    x = main(["fit", f"--model={PlainModule.__module__}.PlainModule", f"--data={__name__}.DrawnSplit", *QUIET])
    assert "when the best checkpoint was saved" not in capsys.readouterr().out
    results = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    assert results["val/accuracy"] == results["test/accuracy"] == x.best.score
    for command in ("validate", "test"):
        again = main([command, f"--run={RUN}"]).trainer.callback_metrics
        assert float(again[f"{command[:3] if command == 'validate' else 'test'}/accuracy"]) == x.best.score


class DrawnEarly(DrawnSplit):
    """Draws the order of the samples in prepare_data."""

    def prepare_data(self) -> None:
        self.order = torch.randperm(200)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        samples = Subset(self.subsets[0].dataset, self.order.tolist())
        self.subsets = [Subset(samples, range(150)), Subset(samples, range(150, 200))]


class DrawnByModule(PlainModule):
    """Has its own loaders and draws the split in its own setup, as in Lightning's first tutorials."""

    setup, train_dataloader = DrawnSplit.setup, DrawnSplit.train_dataloader
    val_dataloader = test_dataloader = DrawnSplit.val_dataloader


@pytest.mark.parametrize("args", [["--data={}.DrawnEarly", "--model={}.PlainModule"], ["--model={}.DrawnByModule"]])
def test_a_split_drawn_by_any_hook_is_the_same_in_every_command(args: list[str]) -> None:
    x = main(["fit", *(each.format(__name__) for each in args), *QUIET])
    results = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    assert results["val/accuracy"] == results["test/accuracy"] == x.best.score
    assert float(main(["test", f"--run={RUN}"]).trainer.callback_metrics["test/accuracy"]) == x.best.score


class DrawnPixels(DrawnSplit):
    """The same samples as images."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        images, targets = self.subsets[0].dataset.tensors
        self.subsets[0].dataset.tensors = images.view(-1, 1, 8, 8), targets


def test_weights_that_are_initialized_at_random_do_not_change_a_drawn_split() -> None:
    args = [*SMALL, f"--data={__name__}.DrawnPixels", "--model.num_classes=10", "--model.init=src.nets.Init", *QUIET]
    x = main(["fit", *args, "--test=false"])
    again = main(["validate", f"--run={RUN}"]).trainer.callback_metrics
    assert float(again["val/accuracy"]) == x.best.score


def test_a_note_says_that_the_metric_of_the_best_checkpoint_changed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", f"--model={PlainModule.__module__}.PlainModule", f"--data={__name__}.NoisyValidation", *QUIET])
    assert "val/accuracy was 0." in capsys.readouterr().out
