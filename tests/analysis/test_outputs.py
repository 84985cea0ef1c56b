"""What a test predicts: kinds, scores against libraries and loops, intervals, and files that cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss
from torchmetrics.classification import MulticlassJaccardIndex, MultilabelF1Score

from src import UserError
from src.analysis.outputs import FILE, Outputs, headline, kind_of, resampled, score
from src.tasks.scores import Retrieval

DRAW = np.random.default_rng(0)


def outputs(kind: str, preds: np.ndarray, targets: np.ndarray, k: int = 3, test_set: str = "a") -> Outputs:
    values, loss = score(kind, preds, targets, k)
    return Outputs(kind, values, loss, preds, targets, test_set)


def probabilities(n: int = 200, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    raw = DRAW.random((n, k))
    return (raw / raw.sum(1, keepdims=True)).astype(np.float32), DRAW.integers(k, size=n)


def test_kinds_are_told_by_shape_and_type() -> None:
    preds, classes = probabilities()
    assert kind_of(preds, classes) == "classes"
    unit = (preds - 0.5) / np.linalg.norm(preds - 0.5, axis=1, keepdims=True)
    assert kind_of(unit, classes) == "embeddings"
    assert kind_of(preds - 0.5, classes) is None  # logits
    assert kind_of(preds, (preds > 0.5).astype(np.float32)) == "labels"
    assert kind_of(preds, (preds > 0.5).astype(int)) == "labels"
    assert kind_of(preds, preds) == "numbers"
    assert kind_of(preds[:, :1], preds[:, 0]) == "numbers"
    masks = np.zeros((4, 5, 5), dtype=int)
    assert kind_of(masks, masks) == "masks"
    assert kind_of(np.zeros((4, 3, 5, 5)), np.zeros((4, 3, 5, 5))) is None


def test_accuracy_and_loss_of_classes_are_those_of_scikit_learn() -> None:
    preds, classes = probabilities()
    o = outputs("classes", preds, classes)
    assert headline(o)[0] == pytest.approx((preds.argmax(1) == classes).mean())
    exact = preds.astype(float) / preds.astype(float).sum(1, keepdims=True)
    assert o.loss.mean() == pytest.approx(log_loss(classes, exact), rel=1e-6)


def test_the_error_of_numbers_is_the_mean_over_targets() -> None:
    preds, targets = DRAW.normal(size=(2, 50, 2))
    o = outputs("numbers", preds, targets)
    value, (low, high) = headline(o)
    assert value == pytest.approx(np.abs(preds - targets).mean())
    assert low < value < high


def test_f1_of_labels_is_that_of_torchmetrics() -> None:
    preds, labels = DRAW.random((80, 4)), DRAW.integers(2, size=(80, 4))
    labels[:, 3], preds[:, 3] = 0, 0.1  # a class that is neither true nor predicted
    value, (low, high) = headline(outputs("labels", preds, labels))
    oracle = MultilabelF1Score(4)(torch.tensor(preds), torch.tensor(labels))
    assert value == pytest.approx(float(oracle), abs=1e-6)
    assert value == pytest.approx(f1_score(labels, preds > 0.5, average="macro", zero_division=0))
    assert low < value < high


def test_iou_of_masks_is_that_of_torchmetrics() -> None:
    preds, masks = DRAW.integers(3, size=(2, 30, 6, 7))
    o = outputs("masks", preds, masks, k=5)  # two classes that are nowhere
    oracle = MulticlassJaccardIndex(5)(torch.tensor(preds), torch.tensor(masks))
    assert headline(o)[0] == pytest.approx(float(oracle), abs=1e-6)
    inter, union = (preds[0] == 1) & (masks[0] == 1), (preds[0] == 1) | (masks[0] == 1)
    hit, false, missed = o.values[0, 1]
    assert (hit, hit + false + missed) == (inter.sum(), union.sum())


def test_recall_of_embeddings_is_that_of_the_metric() -> None:
    vectors, classes = DRAW.normal(size=(150, 8)).astype(np.float32), DRAW.integers(4, size=150)
    classes[0] = 9  # alone in its class
    metric = Retrieval()
    metric.update(torch.tensor(vectors), torch.tensor(classes))
    o = outputs("embeddings", vectors, classes)
    assert headline(o)[0] == pytest.approx(float(metric.compute()["recall_at_1"]), abs=1e-6)
    assert np.isnan(o.values[0])


def test_resampling_is_that_of_samples_drawn_again() -> None:
    preds, masks = DRAW.integers(3, size=(2, 40, 4, 4))
    o = outputs("masks", preds, masks)
    found = resampled([o])[0]
    means = []
    for _ in range(500):
        rows = DRAW.integers(40, size=40)
        means.append(headline_of(preds[rows], masks[rows]))
    assert found.mean() == pytest.approx(np.mean(means), abs=0.005)
    assert found.std() == pytest.approx(np.std(means), rel=0.15)


def headline_of(preds: np.ndarray, masks: np.ndarray) -> float:
    each = [((preds == k) & (masks == k)).sum() / ((preds == k) | (masks == k)).sum() for k in range(3)]
    return float(np.mean(each))


def test_outputs_are_the_same_after_a_round_trip(tmp_path: Path) -> None:
    preds, classes = probabilities()
    o = outputs("classes", preds, classes)
    o.class_names, o.names, o.traits = ["a", "b", "ç"], ["x/1.png"] * 200, {"brightness": np.ones(200)}
    o.shown, o.pictures = np.array([3, 1]), {"image": np.zeros((2, 1, 4, 4), dtype=np.uint8)}
    o.save(tmp_path / FILE)
    found = Outputs.load(tmp_path)
    for key, value in vars(o).items():
        np.testing.assert_equal(vars(found)[key], value)
    assert not [*tmp_path.glob("*.part")]


def test_a_folder_without_outputs_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no predictions of its test split: run: python -m src\.cli test --run"):
        Outputs.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_damaged_outputs_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*test\.npz"):
        Outputs.load(tmp_path)
    np.savez(tmp_path / FILE, values=np.zeros(3))
    with pytest.raises(UserError, match=r"cannot read .*test\.npz"):
        Outputs.load(tmp_path)


def test_samples_that_are_all_alone_in_their_class_have_no_recall() -> None:
    value, ends = headline(outputs("embeddings", DRAW.normal(size=(5, 3)), np.arange(5)))
    assert np.isnan(value)
    assert ends == (0, 1)
