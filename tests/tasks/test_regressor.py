"""Regressor: numbers in the units of the data, against scikit-learn."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics

from src import UserError, load_run
from src.cli import main
from src.data import Diabetes
from src.losses import LogError, QuantileLoss
from src.tasks.scores import regression_metrics
from tests.conftest import refused

FIT = ["fit", "--config=configs/diabetes.yaml", "--trainer.max_epochs=3"]
RUN = Path("runs/diabetes/version_0")


class Pair(torch.nn.Module):
    """Two outputs of one layer."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, num_outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


def test_metrics_are_those_of_scikit_learn_in_the_units_of_the_data() -> None:
    x = main(FIT)
    task, data = load_run(RUN)
    data.setup("test")
    true = data.splits["test"].targets.numpy()
    with torch.no_grad():
        predicted = torch.cat([task.predict_step(batch[0], 0) for batch in data.test_dataloader()]).numpy()
    results = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    assert results["test/mae"] == pytest.approx(metrics.mean_absolute_error(true, predicted), rel=1e-5)
    assert results["test/mse"] == pytest.approx(metrics.mean_squared_error(true, predicted), rel=1e-5)
    assert results["test/rmse"] == pytest.approx(results["test/mse"] ** 0.5, rel=1e-6)
    assert results["test/r2"] == pytest.approx(metrics.r2_score(true, predicted), abs=1e-5)
    train = x.data.splits["train"]
    numbers = train.targets[train.index].double().numpy()
    assert task.target_mean.item() == pytest.approx(numbers.mean(), rel=1e-6)
    assert task.target_std.item() == pytest.approx(numbers.std(), rel=1e-6)
    scaled = (torch.tensor(predicted) - task.target_mean) / task.target_std
    assert results["test/loss"] == pytest.approx(
        float((scaled - (torch.tensor(true) - task.target_mean) / task.target_std).square().mean()), rel=1e-4
    )


def test_predict_writes_numbers_with_the_true_ones(capsys: pytest.CaptureFixture[str]) -> None:
    main(FIT)
    main(["predict", f"--run={RUN}"])
    with (RUN / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 89
    errors = [abs(float(row["value"]) - float(row["true"])) for row in rows]
    mae = json.loads((RUN / "results.json").read_text(encoding="utf-8"))["test/mae"]
    assert np.mean(errors) == pytest.approx(mae, rel=1e-5)
    assert f"mae         {mae:.4f}" in capsys.readouterr().out


def test_several_numbers_are_averaged_alike() -> None:
    predicted, true = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    found = regression_metrics()
    for part in (slice(0, 7), slice(7, 40)):
        found.update(predicted[part], true[part])
    values = found.compute()
    assert values["mae"].item() == pytest.approx(metrics.mean_absolute_error(true, predicted), rel=1e-5)
    assert values["rmse"].item() == pytest.approx(metrics.mean_squared_error(true, predicted) ** 0.5, rel=1e-5)
    assert values["r2"].item() == pytest.approx(metrics.r2_score(true, predicted), abs=1e-5)


def test_losses_are_those_of_scikit_learn() -> None:
    predicted, true = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) * 9
    assert float(LogError()(predicted, true)) == pytest.approx(
        metrics.mean_squared_log_error(true, predicted), rel=1e-5
    )
    for quantile in (0.1, 0.5, 0.9):
        oracle = metrics.mean_pinball_loss(true, predicted, alpha=quantile)
        assert float(QuantileLoss(quantile)(predicted, true)) == pytest.approx(oracle, rel=1e-5)
    outputs = torch.tensor([-3.0, 0.5], requires_grad=True)
    LogError()(outputs, torch.tensor([1.0, 1.0])).backward()
    assert outputs.grad is not None
    assert bool((outputs.grad < 0).all())


@pytest.mark.parametrize("quantile", [0.0, 1.0])
def test_a_quantile_outside_0_and_1_is_refused(quantile: float) -> None:
    with pytest.raises(UserError, match=r"quantile must be in \(0, 1\), got"):
        QuantileLoss(quantile)


@pytest.mark.parametrize(
    "loss", ["torch.nn.HuberLoss", "torch.nn.L1Loss", "torch.nn.SmoothL1Loss", "src.losses.QuantileLoss"]
)
def test_losses_are_named_by_their_path(loss: str) -> None:
    x = main([*FIT[:2], f"--model.loss={loss}", "--trainer.max_epochs=1", "--test=false"])
    assert type(x.task.loss).__name__ == loss.rpartition(".")[2]


def test_relative_errors_need_targets_in_their_own_units(capsys: pytest.CaptureFixture[str]) -> None:
    loss = "--model.loss=src.losses.LogError"
    assert "set standardize to false" in refused(capsys, *FIT, loss)
    x = main([*FIT, loss, "--model.standardize=false", "--test=false"])
    assert x.task.target_std.item() == 1


def test_targets_of_another_kind_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    net = ["--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]"]
    line = refused(capsys, "fit", "--config=configs/diabetes.yaml", "--data=src.data.Digits", *net)
    assert "Regressor needs targets that are numbers (floats), got torch.int64 (1437,)" in line
    line = refused(capsys, *FIT, "--model.num_outputs=2")
    assert "num_outputs is 2, but the targets have the shape (353,)" in line


def test_the_angle_of_turned_digits_is_learned() -> None:
    args = ["--model.net.width=8", "--trainer.max_epochs=5", "--model.warmup_steps=0"]
    x = main(["fit", "--config=configs/digits_rotation.yaml", *args])
    assert json.loads((x.run.path / "results.json").read_text(encoding="utf-8"))["test/mae"] < 15  # 22.5 for the mean


def test_r2_is_exact_far_from_zero_and_no_number_for_one_sample() -> None:
    draw = torch.Generator().manual_seed(0)
    true = 20_000 + torch.randn(500, generator=draw)
    predicted = true + torch.randn(500, generator=draw) / 2
    found = regression_metrics()
    found.update(predicted[:1], true[:1])
    assert found.compute()["r2"].isnan()
    found.update(predicted[1:], true[1:])
    assert found.compute()["r2"].item() == pytest.approx(metrics.r2_score(true, predicted), abs=1e-5)


class Spoiled(Diabetes):
    """The patients, with a target that is no number in one split."""

    where = "val"

    def load(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = super().load(train)
        if not train and self.where == "test":
            targets[3] = torch.nan
        return inputs, targets

    def load_val(self) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = super().load(True)
        return inputs[:9], targets[:9].index_fill(0, torch.tensor([4]), torch.inf if self.where == "val" else 100)


@pytest.mark.parametrize(("split", "sample"), [("val", 4), ("test", 3)])
def test_targets_of_every_split_are_checked(
    split: str, sample: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spoiled, "where", "none")
    main([*FIT, "--data=tests.tasks.test_regressor.Spoiled"])
    monkeypatch.setattr(Spoiled, "where", split)
    command = "validate" if split == "val" else "test"
    line = refused(capsys, command, f"--run={RUN}", "--trust")
    assert f"targets must be finite numbers, got NaN or infinity in sample {sample}" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--trainer.precision=bf16-true"], "precision bf16-true rounds the targets of Regressor: use bf16-mixed"),
        (["--model.loss=torch.nn.BCELoss"], "the loss does not accept outputs and targets (N) (all elements of"),
        (["--model.loss=torch.nn.GaussianNLLLoss"], "the loss does not accept outputs and targets (N) ("),
        (["--model.loss=torch.nn.MSELoss", "--model.loss.reduction=none"], "got shape (2,); reduce it"),
    ],
)
def test_what_does_not_fit_is_refused(settings: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *FIT, *settings)


def test_negative_targets_have_no_logarithm(capsys: pytest.CaptureFixture[str]) -> None:
    loss = ["--model.loss=src.losses.LogError", "--model.standardize=false"]
    line = refused(capsys, "fit", "--config=configs/digits_rotation.yaml", *loss)
    assert "LogError needs targets of at least 0, got negative ones" in line


class Alike(Diabetes):
    """The patients, all with the same target."""

    def parse_targets(self, rows: object) -> torch.Tensor:
        return torch.full_like(super().parse_targets(rows), 0.1)  # type: ignore[arg-type]


def test_a_constant_target_is_not_divided_by_its_rounding_error() -> None:
    x = main([*FIT, "--data=tests.tasks.test_regressor.Alike", "--test=false"])
    assert x.task.target_std.item() == 1
