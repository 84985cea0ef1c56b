"""MultiLabel: average precision and thresholds against scikit-learn."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from src import UserError, load_run
from src.cli import main
from src.data import DigitMosaics
from src.tasks import MultiLabel
from src.tasks.scores import BestF1
from tests.conftest import refused

FIT = ["fit", "--config=configs/digits_multilabel.yaml", "--model.net.width=8", "--trainer.max_epochs=3"]
RUN = Path("runs/digits_multilabel/version_0")


def predicted(kind: str) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Return probabilities and targets (N, K) of a split, and the thresholds, of a trained run."""
    task, data = load_run(RUN)
    data.setup("fit" if kind == "val" else "test")
    with torch.no_grad():
        batches = [(task.predict_step(images, 0), targets) for images, targets in getattr(data, f"{kind}_dataloader")()]
    probabilities = torch.cat([output["probability"] for output, _ in batches])
    return probabilities.numpy(), torch.cat([targets for _, targets in batches]).numpy(), task.thresholds


@pytest.mark.parametrize("average", ["", "src.callbacks.EMA", "src.callbacks.SWA"])
def test_scores_and_thresholds_are_those_of_scikit_learn(average: str) -> None:
    main([*FIT, *([f"--trainer.callbacks+={average}"] if average else [])])
    results = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    probabilities, targets, thresholds = predicted("val")
    best = []
    for k in range(10):
        precision, recall, values = precision_recall_curve(targets[:, k], probabilities[:, k])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best.append(f1.max())
        reached = f1_score(targets[:, k], probabilities[:, k] >= thresholds[k].item())
        assert reached == pytest.approx(f1.max(), abs=1e-6)
        assert thresholds[k].item() in values
    assert results["val/f1"] == pytest.approx(np.mean(best), abs=1e-6)
    assert results["val/map"] == pytest.approx(average_precision_score(targets, probabilities), abs=1e-5)
    probabilities, targets, thresholds = predicted("test")
    assert results["test/map"] == pytest.approx(average_precision_score(targets, probabilities), abs=1e-5)
    oracle = f1_score(targets, probabilities >= thresholds.numpy(), average=None)
    assert results["test/f1"] == pytest.approx(oracle.mean(), abs=1e-6)
    assert results["test/f1/3"] == pytest.approx(oracle[3], abs=1e-6)


def test_a_sample_at_its_threshold_has_the_class() -> None:
    task = MultiLabel(torch.nn.Identity(), 2, optimizer=torch.optim.SGD)
    task.thresholds.copy_(torch.tensor([1.0, 0.3]))
    p = torch.tensor([[1.0, 0.3], [0.9999999, 0.29999998], [0.2, 1.0], [0.0, 0.0]])
    centered, _ = task.compare(p, torch.zeros(4, 2))
    assert (centered > 0.5).equal(p >= task.thresholds)
    assert centered.argsort(0).equal(p.argsort(0))


def test_a_class_that_never_occurs_keeps_its_threshold() -> None:
    score = BestF1(2)
    with warnings.catch_warnings(action="ignore"):
        score.update(torch.tensor([[0.9, 0.2], [0.1, 0.3], [0.8, 0.7]]), torch.tensor([[1, 0], [0, 0], [1, 0]]))
        assert score.compute() == 1
    assert score.thresholds_found.tolist() == pytest.approx([0.8, 0.5])


def test_labels_are_the_digits_in_the_image() -> None:
    images, labels = DigitMosaics().load(train=True)
    tiles = images.view(-1, 2, 8, 2, 8).transpose(2, 3).reshape(len(images), 4, 64)
    shown = (tiles.sum(2) > 0).sum(1)
    assert (labels.sum(1) <= shown).all()
    assert (labels.sum(1)[shown > 0] >= 1).all()
    assert labels[shown == 0].sum() == 0
    assert labels.unique().tolist() == [0, 1]


def test_targets_of_another_kind_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *FIT, "--data=src.data.Digits")
    assert "MultiLabel needs targets (N, 10) of 0 and 1, got torch.int64 (1437,)" in line


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("num_classes=1", "num_classes must be at least 2, got 1"),
        ("loss=torch.nn.NLLLoss", "the loss does not accept logits and targets (N, 10) ("),
        ("loss=src.losses.TripletLoss", "the loss does not accept logits and targets (N, 10) ("),
    ],
)
def test_what_does_not_fit_is_refused(setting: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *FIT, f"--model.{setting}")


@pytest.mark.parametrize("split", ["val", "test"])
def test_labels_of_every_split_are_checked(split: str) -> None:
    data, task = (
        DigitMosaics(),
        MultiLabel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10)), 10, optimizer=torch.optim.SGD),
    )
    data.setup("fit")
    data.setup("test")
    task._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    task.setup("validate")
    data.splits[split].targets = data.splits[split].targets.clone()
    data.splits[split].targets[0, 0] = 0.5
    with pytest.raises(UserError, match="of 0 and 1"):
        task.setup("validate")
