"""Modules and loaders that know nothing of this template go on to the bit from the end of an epoch."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from src.cli import main

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*your dataloader is not resumable"
)


class Noisy(Dataset):
    """Samples that three generators change each time."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Tensor:
        return torch.full((4,), i / 40.0) + torch.rand(4) + random.random() + float(np.random.rand())


class Stream(IterableDataset):
    """The same without a length or an order of its own."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from (Noisy()[random.randrange(40)] for _ in range(20))


class OwnData(LightningDataModule):
    """Plain DataLoaders."""

    def __init__(self, num_workers: int = 0, stream: bool = False) -> None:
        super().__init__()
        self.num_workers, self.stream = num_workers, stream

    def train_dataloader(self) -> DataLoader:
        data: Any = Stream() if self.stream else Noisy()
        return DataLoader(data, 8, shuffle=None if self.stream else True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Noisy(), 8, num_workers=self.num_workers)  # type: ignore[type-var]


class OwnModule(LightningModule):
    """A net with dropout, which stops the process as if it were cut off."""

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.net, self.stop_at = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 1)), stop_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        if self.global_step == self.stop_at:
            raise OSError("cut off")
        loss = self.net(batch).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        self.log("val/accuracy", self.net(batch).mean() + torch.rand(()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(*typed: str) -> None:
    own = [f"--model={__name__}.OwnModule", f"--data={__name__}.OwnData", "--trust", "--trainer.accelerator=cpu"]
    main(["fit", *own, "--trainer.max_epochs=4", "--trainer.log_every_n_steps=2", *typed])


def last(run: str) -> dict[str, Any]:
    return torch.load(f"runs/run/{run}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("typed", "steps"), [([], 5), (["--data.num_workers=1"], 5), (["--data.stream=true"], 3)], ids=str
)
def test_a_plain_run_that_was_cut_off_equals_one_that_was_not(typed: list[str], steps: int) -> None:
    fit(*typed)
    with pytest.raises(OSError, match="cut off"):
        fit(*typed, f"--model.stop_at={2 * steps + 1}")
    assert last("version_1")["global_step"] == 2 * steps
    fit("--run=runs/run/version_1", "--model.stop_at=-1")
    whole, ours = (last(run)["state_dict"] for run in ("version_0", "version_1"))
    assert all(torch.equal(ours[key], whole[key]) for key in whole)
    logs = [Path(f"runs/run/{run}/metrics.csv").read_text() for run in ("version_0", "version_1")]
    assert logs[0] == logs[1]


def test_what_does_not_go_on_exactly_is_said_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_epochs=1")
    assert capsys.readouterr().out.startswith("note  this DataLoader keeps no place: a run that is cut off goes on")
    main(["fit", "--config=configs/digits.yaml", "--model.net.width=4", "--trainer.max_epochs=1", "--test=false"])
    assert "note" not in capsys.readouterr().out
