"""Outputs of a file are compared with those of predict: differences, decisions, ties, and the cost of less."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from src import UserError
from src.analysis.outputs import Outputs as Scored
from src.analysis.outputs import score
from src.commands.exports.parity import check_loss, compare, measured, scored
from src.data.loading.splits import Samples
from src.tasks import Segmenter


def found(
    kind: str, expected: dict[str, Any], actual: dict[str, Any], x: Any = None, margins: Any = None
) -> tuple[float, int]:
    graph: Any = SimpleNamespace(kind=kind, margins=margins)
    arrays = [{name: np.asarray(each) for name, each in outputs.items()} for outputs in (expected, actual)]
    result = compare(x, graph, *arrays)
    assert result["samples"] == len(next(iter(arrays[0].values())))
    return result["max_difference"], result["disagreements"]


def test_classes_differ_unless_two_are_equally_probable():
    rows = np.array([[0.5, 0.5], [0.6, 0.4]], dtype=np.float32)
    shifted = rows + np.array([[-4e-6, 4e-6], [0, 0]], dtype=np.float32)
    assert found("classes", {"probabilities": rows}, {"probabilities": rows}) == (0, 0)
    gap, other = found("classes", {"probabilities": rows}, {"probabilities": shifted})
    assert (round(gap, 7), other) == (4e-6, 0)
    gap, other = found("classes", {"probabilities": rows}, {"probabilities": rows[:, ::-1]})
    assert (round(gap, 6), other) == (0.2, 1)  # the first row is a tie


def test_labels_differ_unless_a_probability_is_at_its_threshold():
    p, predicted = np.array([[0.5, 0.1], [0.7, 0.2]]), np.array([[1, 0], [1, 0]])
    expected = {"probability": p, "predicted": predicted}
    near = {"probability": p - np.array([[1e-6, 0], [0, 0]]), "predicted": [[0, 0], [1, 0]]}
    far = {"probability": p + np.array([[0, 0.5], [0, 0]]), "predicted": [[1, 1], [1, 0]]}
    assert found("labels", expected, near)[1] == 0
    assert found("labels", expected, far)[1] == 1
    assert found("labels", expected, {"probability": p, "predicted": [[1, 1], [1, 0]]})[1] == 1  # another threshold
    against = {"probability": p + np.array([[1e-6, 0], [0, 0]]), "predicted": [[0, 0], [1, 0]]}
    assert found("labels", expected, against)[1] == 1


def test_numbers_differ_by_a_share_of_the_largest():
    assert found("numbers", {"numbers": [[200.0], [-100.0]]}, {"numbers": [[200.0], [-101.0]]}) == (1 / 200, 0)
    assert found("numbers", {"numbers": [[0.5], [0.1]]}, {"numbers": [[0.5], [0.2]]})[0] == pytest.approx(0.1)
    assert found("numbers", {"numbers": [[np.nan], [np.inf]]}, {"numbers": [[np.nan], [np.inf]]}) == (0, 0)
    assert found("numbers", {"numbers": [[1.0], [np.nan]]}, {"numbers": [[1.0], [3.0]]})[0] > 1e300


def test_whole_numbers_of_other_modules_must_be_equal():
    assert found("values", {"class": [1, 2, 3]}, {"class": [1, 2, 4]}) == (0, 1)
    scores = {"score": np.array([0.25, 0.5])}
    assert found("values", {**scores, "label": [3, 4]}, {**scores, "label": [7, 0]}) == (0, 2)
    with pytest.raises(UserError, match=r"the exported class is \(2,\), predict returns \(3,\)"):
        found("values", {"class": [1, 2, 3]}, {"class": [1, 2]})


def test_gray_levels_next_to_each_other_are_rounding():
    pictures = np.full((2, 1, 2, 2), 100, dtype=np.uint8)
    near, far = pictures + np.uint8(1), pictures - np.eye(2, dtype=np.uint8) * 2
    assert found("images", {"image": pictures}, {"image": near}) == (0, 0)
    assert found("images", {"image": pictures}, {"image": far}) == (1, 2)


def test_pixels_of_masks_differ_unless_two_classes_are_equally_probable():
    x: Any = SimpleNamespace(data=SimpleNamespace(splits={"predict": Samples(torch.zeros(2, 1, 2, 2), None)}))
    a, b = np.zeros((2, 2, 2), dtype=np.uint8), np.zeros((2, 2, 2), dtype=np.uint8)
    b[1, 0] = 1
    for margin, expected in ((0.1, (0.5, 1)), (1e-6, (0, 0))):
        margins = lambda pixels, value=margin: torch.full((len(pixels), 2, 2), value)  # noqa: E731
        assert found("masks", {"mask": a}, {"mask": b}, x, margins) == expected


def of_classes(right: int, n: int = 1000, swapped: int = 0) -> Scored:
    """Return outputs of which some are right: the first ones, but for ``swapped`` that others replace."""
    values = np.zeros(n)
    values[swapped : right + swapped] = 1
    return Scored("classes", values, values, np.zeros((n, 2)), np.zeros(n, dtype=int), "")


def test_a_smaller_model_may_lose_half_a_point():
    whole = of_classes(900)
    assert check_loss(whole, of_classes(896), "int8").startswith("test/accuracy changes by -0.0040, 95 % between -0.00")
    assert check_loss(whole, of_classes(894, swapped=20), "int8")  # others are right: it may also have gained
    with pytest.raises(UserError, match=r"int8 costs too much: test/accuracy changes by -0\.0060.*without --quantize"):
        check_loss(whole, of_classes(894), "int8")
    with pytest.raises(UserError, match=r"pruned costs too much: .* use a smaller --prune or more --prune_epochs"):
        check_loss(whole, of_classes(800, swapped=20), "pruned")


def test_numbers_may_lose_a_share_of_their_deviation():
    targets = np.linspace(0, 100, 200)
    whole, worse = (
        Scored("numbers", *score("numbers", targets + e, targets, 0), targets, targets, "") for e in (1, 1.2)
    )
    far = Scored("numbers", *score("numbers", targets + 1.1, targets, 0), targets, targets, "")
    assert 0.1 < 0.005 * targets.std() < 0.2
    assert check_loss(whole, far, "int8").startswith("test/mae changes by +0.1000")
    assert check_loss(worse, whole, "int8").startswith("test/mae changes by -0.2000")
    with pytest.raises(UserError, match=r"test/mae changes by \+0\.2000"):
        check_loss(whole, worse, "int8")


def data_of(targets: Any, classes: list[str] | None = None, task: Any = None) -> Any:
    split = Samples(torch.zeros(len(targets), 1), torch.as_tensor(targets), torch.arange(len(targets)).flip(0))
    return SimpleNamespace(task=task, data=SimpleNamespace(splits={"test": split}, class_names=classes))


def test_the_headline_metric_is_that_of_the_answers():
    x = data_of([0, 1, 1, 0], ["a", "b"])
    rows = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], dtype=np.float32)  # of samples 3, 2, 1, 0
    assert measured(scored(x, "classes", {"probabilities": rows}))["test/accuracy"]["value"] == 0.75
    assert measured(scored(x, "values", {"value": 9 * rows - 3}))["test/accuracy"]["value"] == 0.75  # logits
    assert scored(x, "values", {"value": rows[:, :1]}) is None
    assert scored(x, "images", {"image": rows}) is None
    assert scored(data_of([0, 1, 2, -100]), "classes", {"probabilities": rows}) is None
    numbers = data_of([1.0, 2.0, 3.0, 4.0])
    assert (
        measured(scored(numbers, "numbers", {"numbers": np.array([[4.5], [3], [2], [1]])}))["test/mae"]["value"]
        == 0.125
    )
    labels = data_of([[1, 0], [1, 1]])
    found = {"probability": np.full((2, 2), 0.4), "predicted": np.array([[1, 1], [1, 0]])}  # thresholds below 0.5
    assert measured(scored(labels, "labels", found))["test/f1"]["value"] == 1
    task = Segmenter(net=lambda k: torch.nn.Conv2d(1, k, 1), num_classes=2, optimizer=torch.optim.SGD)
    masks = data_of([[[0, 1]], [[1, 1]]], task=task)
    iou = measured(scored(masks, "masks", {"mask": np.array([[[1, 1]], [[1, 1]]], dtype=np.uint8)}))["test/iou"][
        "value"
    ]
    assert iou == pytest.approx(0.75 / 2)  # of class 0 none, of class 1 three of four pixels
