"""Foreign modules and DataLoaders resume bit for bit from the end of an epoch."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop

from src.cli import main
from src.engine.resume import Resume, seed_epoch
from tests.conftest import FIT, same, weights
from tests.spoilers import OwnData, OwnModule

pytestmark = pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
RUNS = Path("runs/run")


def fit(*args: str) -> None:
    foreign = ["--model=tests.spoilers.OwnModule", "--data=tests.spoilers.OwnData", "--trainer.accelerator=cpu"]
    main(["fit", *foreign, "--trainer.max_epochs=4", "--trainer.log_every_n_steps=2", *args])


@pytest.mark.parametrize(
    ("args", "steps"), [([], 5), (["--data.num_workers=1"], 5), (["--data.stream=true"], 3)], ids=str
)
def test_an_interrupted_run_equals_an_uninterrupted_one(args: list[str], steps: int) -> None:
    fit(*args)
    with pytest.raises(OSError, match="interrupted"):
        fit(*args, f"--model.stop_at={2 * steps + 1}")
    stored = torch.load(RUNS / "version_1/checkpoints/last.ckpt", weights_only=True)
    assert stored["global_step"] == 2 * steps
    fit(f"--run={RUNS}/version_1", "--model.stop_at=-1")
    assert same(weights(RUNS / "version_1"), weights(RUNS / "version_0"))
    logs = [(RUNS / version / "metrics.csv").read_text(encoding="utf-8") for version in ("version_0", "version_1")]
    assert logs[0] == logs[1]


class Draw(Callback):
    """Record random numbers in each epoch, before the first step."""

    def __init__(self) -> None:
        self.numbers: dict[int, list[float]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        if batch_idx == 0:
            drawn = [float(torch.rand(())), random.random(), float(np.random.rand()), float(batch.sum())]
            self.numbers[trainer.current_epoch] = drawn


def numbers(seed: int, **settings: Any) -> dict[int, list[float]]:
    """Return the random numbers of three epochs of a plain Trainer."""
    draw = Draw()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(
        callbacks=[Resume(seed=seed), draw], max_epochs=3, enable_model_summary=False, **quiet, **settings
    )
    trainer.fit(OwnModule(), OwnData())
    return draw.numbers


def test_random_numbers_of_an_epoch_depend_only_on_seed_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(1)
    first = numbers(seed=5)
    assert "PL_GLOBAL_SEED" not in os.environ
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    torch.manual_seed(2)
    assert numbers(seed=5) == first
    assert numbers(seed=5, num_sanity_val_steps=0) == first
    others = numbers(seed=6)
    drawn = [number for epochs in (first, others) for epoch in epochs.values() for number in epoch]
    assert len(drawn) == len(set(drawn)) == 24


def test_a_resumed_epoch_begins_with_its_own_seed() -> None:
    drawn = []
    for epoch in (2, 0):
        trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        Resume(epoch=epoch, seed=5).on_fit_start(trainer, OwnModule())
        drawn.append(float(torch.rand(())))
    expected = []
    for epoch in (2, 0):
        seed_epoch(5, epoch)
        expected.append(float(torch.rand(())))
    assert drawn == expected


def test_lightning_has_what_is_replaced_in_it() -> None:
    assert callable(_FitLoop._iteration_based_training)
    assert isinstance(_FitLoop._can_stop_early, property)


def test_a_run_says_at_its_start_what_does_not_resume_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_epochs=1")
    start = "note  this DataLoader and LightningModule have no mid-epoch state:\n"
    assert capsys.readouterr().out.startswith(start)
    main([*FIT, "--trainer.max_epochs=1"])
    assert "DataLoader" not in capsys.readouterr().out
