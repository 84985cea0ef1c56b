"""Modules and loaders that know nothing of this template go on to the bit from the end of an epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loops.fit_loop import _FitLoop

from src.cli import main

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*your dataloader is not resumable"
)


def fit(*typed: str) -> None:
    own = ["--model=scripts.spoilers.OwnModule", "--data=scripts.spoilers.OwnData", "--trainer.accelerator=cpu"]
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


def test_lightning_has_what_is_replaced_in_it() -> None:
    assert callable(_FitLoop._iteration_based_training)
    assert isinstance(_FitLoop._can_stop_early, property)


def test_what_does_not_go_on_exactly_is_said_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_epochs=1")
    assert capsys.readouterr().out.startswith("note  of this DataLoader and module no state amid an epoch is kept")
    main(["fit", "--config=configs/digits.yaml", "--model.net.width=4", "--trainer.max_epochs=1", "--test=false"])
    assert "DataLoader" not in capsys.readouterr().out
