"""Where memory runs out, a batch is taken in parts and everything else stays as it was."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from src.cli import main

SMALL = [
    "--config=configs/digits.yaml",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=4",
    "--data.augment=[]",
    "--test=false",
]


def trained(*typed: str) -> Any:
    net = ["--model.net=scripts.spoilers.Greedy", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    return main(["fit", *SMALL, *net, *typed])


def logged(version: str) -> list[float]:
    rows = csv.DictReader(Path(f"runs/digits/{version}/metrics.csv").read_text().splitlines())
    return [float(row["train/loss"]) for row in rows if row["train/loss"]]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(("most", "parts"), [(40, 2), (20, 4), (9, 8)])
def test_a_batch_that_does_not_fit_is_taken_in_parts_with_the_same_result(
    capsys: pytest.CaptureFixture[str], where: str, most: int, parts: int
) -> None:
    whole = trained()
    capsys.readouterr()
    halved = trained(f"--model.net.most={most}", f"--model.net.where={where}", "--model.on_out_of_memory=halve")
    told = capsys.readouterr().err
    assert f"out of memory: batches are taken in {parts} parts from here on" in told
    assert halved.model.num_parts == parts
    for ours, theirs in zip(halved.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert halved.trainer.global_step == whole.trainer.global_step == 4
    assert logged("version_1") == pytest.approx(logged("version_0"), rel=1e-4)


@pytest.mark.filterwarnings("default")
def test_a_run_that_goes_on_takes_its_batches_in_as_many_parts(capsys: pytest.CaptureFixture[str]) -> None:
    trained("--model.net.most=40", "--model.on_out_of_memory=halve")
    assert "in 2 parts" in capsys.readouterr().err
    cli = main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=2"])
    assert cli.model.num_parts == 2
    assert "out of memory" not in capsys.readouterr().err


@pytest.mark.parametrize("typed", [[], ["--model.on_out_of_memory=halve", "--trainer.accumulate_grad_batches=2"]])
def test_otherwise_it_ends_in_one_line_that_says_what_to_turn(
    capsys: pytest.CaptureFixture[str], typed: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        trained("--model.net.most=20", *typed)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: out of memory: type --model.on_out_of_memory=halve, or a smaller --data.batch_size")
    assert len(err.splitlines()) == 1


@pytest.mark.filterwarnings("default")
def test_a_single_image_that_does_not_fit_ends_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trained("--model.net.most=0", "--model.on_out_of_memory=halve")
    assert "error: out of memory" in capsys.readouterr().err
