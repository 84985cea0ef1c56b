"""Trivial models reach what the same models reach by hand, on the training samples alone."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from src import UserError
from src.analysis.outputs import Outputs, score
from src.analysis.report import baselines
from src.analysis.report.baselines import baselines_section, measure_baselines
from src.data import Digits
from src.data.loading.splits import Samples
from tests.analysis.test_outputs import outputs

DRAW = np.random.default_rng(0)


def data_of(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], images: bool = True) -> Any:
    return SimpleNamespace(splits={"train": Samples(*train), "test": Samples(*test)}, holds_images=images)


def digits(count: int = 300) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
    images, classes = Digits().load(train=True)
    parts = images[:count], classes[:count], images[count : 2 * count], classes[count : 2 * count]
    return data_of(parts[:2], parts[2:]), *parts


def values(facts: dict[str, Any]) -> list[float]:
    return [each["value"] for each in facts["models"]]


def nearest(x: Tensor, x_test: Tensor) -> Tensor:
    return torch.cdist(x_test.flatten(1).double(), x.flatten(1).double()).argmin(1)


def test_models_of_classes_are_those_by_hand() -> None:
    data, x, y, x_test, y_test = digits()
    right = np.ones(300, dtype=bool)
    right[:30] = False  # the run is right on 90 %
    preds = np.eye(10)[np.where(right, y_test, (y_test + 1) % 10)]
    o = outputs("classes", preds, y_test.numpy())
    facts = measure_baselines(data, o)
    frequent = float((y_test == y.bincount().argmax()).float().mean())
    pixels = [each.flatten(1).numpy() / 255 for each in (x, x_test)]
    logistic = LogisticRegression(max_iter=1000).fit(pixels[0], y).score(pixels[1], y_test)
    neighbor = float((y[nearest(x, x_test)] == y_test).float().mean())
    assert values(facts) == pytest.approx([frequent, logistic, neighbor], abs=0.004)
    for each in facts["models"]:
        assert each["difference"] == pytest.approx(0.9 - each["value"])
        low, high = each["difference_interval"]
        assert low <= each["difference"] <= high
    assert (facts["train"], facts["of"]) == (300, 300)


def test_models_of_numbers_are_those_by_hand() -> None:
    x, x_test = torch.randn(200, 3, 1, 1), torch.randn(100, 3, 1, 1)
    y, y_test = (each.flatten(1) @ torch.tensor([1.0, -2, 3]) + 5 + torch.randn(len(each)) for each in (x, x_test))
    o = outputs("numbers", y_test[:, None].numpy(), y_test.numpy())
    facts = measure_baselines(data_of((x, y), (x_test, y_test), images=False), o)
    design = [np.column_stack([each.flatten(1).numpy(), np.ones(len(each))]) for each in (x, x_test)]
    fitted = design[1] @ np.linalg.lstsq(design[0], y.numpy(), rcond=None)[0]
    guesses = [np.full(100, y.mean()), fitted, y[nearest(x, x_test)].numpy()]
    assert values(facts) == pytest.approx([np.abs(guess - y_test.numpy()).mean() for guess in guesses], rel=1e-5)
    assert facts["inputs"] == "inputs"
    assert [each["p"] for each in facts["models"]] == [None] * 3


def test_models_of_labels_are_those_by_hand() -> None:
    data, x, y, x_test, y_test = digits()
    labels = [
        torch.stack([each >= 5, each == 0, each == each], 1).long() for each in (y, y_test)
    ]  # the last is always 1
    data = data_of((x, labels[0]), (x_test, labels[1]))
    o = outputs("labels", labels[1].double().numpy(), labels[1].numpy())
    facts = measure_baselines(data, o)
    constant = np.broadcast_to((labels[0].double().mean(0) > 0.5).numpy(), (300, 3))
    copied = labels[0][nearest(x, x_test)].numpy()
    found = [np.mean([f1(guess[:, k], labels[1][:, k].numpy()) for k in range(3)]) for guess in (constant, copied)]
    assert [values(facts)[i] for i in (0, 2)] == pytest.approx(found)
    assert found[0] < values(facts)[1] < 1


def f1(predicted: np.ndarray, true: np.ndarray) -> float:
    both = ((predicted == 1) & (true == 1)).sum()
    return 2 * both / max(1, (predicted == 1).sum() + (true == 1).sum())


def test_models_of_masks_are_those_by_hand() -> None:
    masks = torch.from_numpy(DRAW.integers(2, size=(60, 5, 4))).byte()
    masks[:, :2] = (torch.rand(60, 2, 4) < 0.7).byte()
    images = (60 + 120 * masks + torch.from_numpy(DRAW.integers(60, size=masks.shape)))[:, None].byte()
    data = data_of((images[:40], masks[:40]), (images[40:], masks[40:]))
    counts, loss = score("masks", masks[40:].numpy(), masks[40:].numpy(), 2)
    o = Outputs("masks", counts, loss, np.zeros((0, 5, 4)), np.zeros((0, 5, 4)), "")
    facts = measure_baselines(data, o)
    mode = masks[:40].float().mean(0).gt(0.5).expand(20, -1, -1).byte()
    guesses = [mode, images[40:, 0] > 149, masks[:40][nearest(images[:40], images[40:])]]
    assert values(facts) == pytest.approx([iou(guess.numpy(), masks[40:].numpy()) for guess in guesses])
    assert values(facts)[1] == 1  # of each pixel, its gray value tells the class


def iou(predicted: np.ndarray, true: np.ndarray) -> float:
    each = [((predicted == k) & (true == k)).sum() / ((predicted == k) | (true == k)).sum() for k in range(2)]
    return float(np.mean(each))


def test_pixels_are_the_trivial_embeddings() -> None:
    data, _, _, x_test, y_test = digits()
    embeddings = np.eye(10)[y_test.numpy()] + DRAW.normal(0, 0.01, (300, 10))
    facts = measure_baselines(data, outputs("embeddings", embeddings, y_test.numpy()))
    distances = torch.cdist(x_test.flatten(1).double(), x_test.flatten(1).double()).fill_diagonal_(torch.inf)
    assert values(facts) == pytest.approx([float((y_test[distances.argmin(1)] == y_test).double().mean())])


def test_large_sets_and_images_are_reduced_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "TRAIN", 150)
    classes = torch.arange(400) % 2
    images = (DRAW.integers(80, size=(400, 3, 40, 36)) + 60 * classes.numpy()[:, None, None, None]).astype(np.uint8)
    halves = [(torch.from_numpy(images[part]), classes[part]) for part in (slice(0, 200), slice(200, 400))]
    o = outputs("classes", np.eye(2)[halves[1][1]], halves[1][1].numpy())
    facts = measure_baselines(data_of(*halves), o)
    assert (facts["train"], facts["of"], facts["inputs"]) == (150, 200, "pixels, 32 x 32, 128 principal components")
    assert values(facts)[1:] == [1, 1]
    section = baselines_section(facts, o)
    assert section["note"].startswith("Trained on 150 of 200 training samples (pixels, 32 x 32, 128 principal")
    assert section["says"][0][0] == "Not clearly better than logistic regression and nearest neighbor."


def test_another_test_split_is_refused_and_other_predictions_are_not_shown() -> None:
    data, *_, y_test = digits(50)
    o = outputs("classes", np.eye(10)[y_test], y_test.numpy())
    facts = measure_baselines(data, o)
    assert baselines_section(facts, o)
    other = outputs("classes", np.eye(10)[(y_test + 1) % 10], y_test.numpy())
    assert baselines_section(facts, other) is None
    assert baselines_section({}, o) is None
    shuffled = outputs("classes", np.eye(10)[y_test.flip(0)], y_test.flip(0).numpy())
    with pytest.raises(UserError, match="not the one that the run was tested on"):
        measure_baselines(data, shuffled)
