"""Ensemble: what is averaged of each task, against formulas, and the values of samples behind a metric."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.classification as tm
from sklearn.metrics import average_precision_score, jaccard_score
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric

from src import load_run
from src.cli import main
from src.tasks.metrics import Accuracy
from src.tasks.scores import value_per_sample
from tests.conftest import refused
from tests.tasks.test_every_task import SMALL


def two_runs(name: str, *typed: str) -> list[Path]:
    """Train a config for a step, and return its run and a copy with other weights and thresholds."""
    settings, _ = SMALL[name]
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--test=false"]
    main(["fit", f"--config=configs/{name}.yaml", *settings, *short, *typed])
    run = Path(f"runs/{name}/version_0")
    other = Path(shutil.copytree(run, run.with_name("version_1")))
    stored = torch.load(other / "checkpoints/best.ckpt", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for key, value in stored["state_dict"].items():
        if value.is_floating_point() and not key.startswith("target"):
            value.mul_(1 + torch.rand(value.shape, generator=generator) / 2)
    torch.save(stored, other / "checkpoints/best.ckpt")
    return [run, other]


def options(runs: list[Path]) -> list[str]:
    return [f"--run={run}" for run in runs]


def outputs(runs: list[Path], change: Callable[[Any, Tensor], Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return test inputs, what a function makes of each net and these, and the targets."""
    tasks, datas = zip(*map(load_run, runs), strict=True)
    datas[0].setup("test")
    inputs, targets = (torch.cat(each) for each in zip(*datas[0].test_dataloader(), strict=True))
    with torch.no_grad():
        return inputs, [change(task, inputs) for task in tasks], targets


@pytest.mark.parametrize("name", ["digits_rotation", "diabetes"])
def test_numbers_are_averaged_in_units_of_the_data(name: str) -> None:
    runs = two_runs(name)
    inputs, each, targets = outputs(runs, lambda task, x: task.net(x)[:, 0] * task.target_std + task.target_mean)
    x = main(["test", *options(runs)])
    mae = [float((values - targets).abs().mean()) for values in (*each, (each[0] + each[1]) / 2)]
    assert x.task.results == pytest.approx(mae, rel=1e-4)
    predicted = main(["predict", *options(runs)]).task.eval().predict_step(inputs, 0)
    assert torch.allclose(predicted, (each[0] + each[1]) / 2, rtol=1e-4)


def test_classes_above_the_mean_threshold_are_predicted() -> None:
    runs = two_runs("digits_multilabel")
    inputs, each, targets = outputs(runs, lambda task, x: task.net(x).sigmoid())
    thresholds = [load_run(run)[0].thresholds for run in runs]
    assert not torch.allclose(*thresholds)
    x = main(["test", *options(runs)])
    mean = (each[0] + each[1]) / 2
    oracle = [average_precision_score(targets, values) for values in (*each, mean)]
    assert x.task.results == pytest.approx(oracle, abs=1e-4)
    assert x.task.paired is None
    found = main(["predict", *options(runs)]).task.eval().predict_step(inputs, 0)
    assert torch.allclose(found["probability"], mean, atol=1e-6)
    assert found["predicted"].equal((found["probability"] >= (thresholds[0] + thresholds[1]) / 2).long())


def test_masks_are_of_mean_probabilities() -> None:
    runs = two_runs("digits_masks")
    inputs, each, targets = outputs(runs, lambda task, x: task.net(x).softmax(1))
    x = main(["test", *options(runs)])
    mean = (each[0] + each[1]) / 2
    for got, soft in zip(x.task.results, (*each, mean), strict=True):
        present = np.union1d(soft.argmax(1).unique(), targets.unique())
        iou = jaccard_score(targets.flatten(), soft.argmax(1).flatten(), average="macro", labels=present)
        assert got == pytest.approx(iou, abs=1e-4)
    x = main(["predict", *options(runs)])
    assert x.task.eval().predict_step(inputs, 0).equal(mean.argmax(1).byte())
    assert len([*Path("predictions_pictures").glob("*_overlay.png")]) == len(targets)


def test_outputs_of_other_modules_are_averaged_but_not_tested(capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs("digits_autoencoder")
    inputs, each, targets = outputs(runs, lambda task, x: task(x))
    x = main(["predict", *options(runs)])
    assert torch.allclose(x.task.eval().predict_step(inputs, 0), (each[0] + each[1]) / 2, atol=1e-6)
    assert len([*Path("predictions_pictures").glob("*.png")]) == len(targets)
    assert "is of Autoencoder, whose predictions have no common scale" in refused(capsys, "test", *options(runs))
    assert "is of Autoencoder" in refused(capsys, "predict", *options(runs), "--soup")


def test_embeddings_are_not_averaged(capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs("digits_retrieval")
    for command in ("test", "predict"):
        assert "is of Embedder, whose predictions have no common scale" in refused(capsys, command, *options(runs))


def test_a_metric_is_the_mean_of_its_values_per_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, classes = torch.rand(40, 7, generator=generator), torch.randint(7, (40,), generator=generator)
    numbers = torch.rand(2, 40, 3, generator=generator)
    cases: list[tuple[Metric, Tensor, Tensor]] = [(Accuracy(7, average="micro"), logits, classes)]
    for metric in (MeanAbsoluteError(), MeanSquaredError()):
        cases += [(metric, *numbers), (metric.clone(), *numbers[:, :, 0])]
    for metric, preds, targets in cases:
        values: Any = value_per_sample(metric, preds, targets)
        assert values.shape == (40,)
        assert float(values.mean()) == pytest.approx(float(metric(preds, targets)), rel=1e-5)


@pytest.mark.parametrize(
    "metric", [Accuracy(7, average="micro", top_k=5), Accuracy(7), tm.MulticlassF1Score(7), MeanSquaredError(False)]
)
def test_other_metrics_have_no_values_per_sample(metric: Metric) -> None:
    assert value_per_sample(metric, torch.rand(4, 7), torch.zeros(4, dtype=torch.long)) is None
