"""Charts show the numbers of scikit-learn, for few and many classes, small and large images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, confusion_matrix, jaccard_score, recall_score

from src.analysis.statistics import confusion, wilson
from src.analysis.training.pictures import draw_calibration, draw_embedding
from src.analysis.training.predictions import Predictions
from src.analysis.training.sheets import draw_filters, draw_maps

RNG = np.random.default_rng(0)


def texts(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def classes(k: int, n: int = 400, size: tuple[int, ...] = (8, 8)) -> Predictions:
    targets = RNG.integers(k, size=n)
    p = RNG.random((n, k)) + 2 * np.eye(k)[targets]
    images = {i: RNG.integers(255, size=size, dtype=np.uint8) for i in range(0, n, 2)}
    names = [f"class ${i}" for i in range(k)]
    return Predictions(p / p.sum(1, keepdims=True), targets, images, RNG.random((n, 5)), names)


@pytest.mark.parametrize("k", [2, 10])
def test_a_confusion_matrix_is_that_of_scikit_learn(k: int) -> None:
    given = classes(k)
    expected = confusion_matrix(given.targets, given.predicted.argmax(1), labels=range(k))
    assert (confusion(given.predicted.argmax(1), given.targets, k) == expected).all()
    drawn = dict(given.figures())["confusion"]()
    assert sorted(map(int, texts(drawn))) == sorted(expected[expected > 0])
    assert drawn.axes[0].get_title() == f"accuracy {expected.trace() / 400:.1%} of 400"


def test_of_many_classes_the_most_frequent_errors_are_listed() -> None:
    given = classes(60)
    given.predicted[:] = np.eye(60)[given.targets]
    given.predicted[given.targets == 3] = np.eye(60)[7]
    drawn = dict(given.figures())["confusion"]()
    (text,) = texts(drawn)
    assert text.splitlines()[3:] == [rf" {(given.targets == 3).sum():>3}  class \$3 → class \$7"]


def test_bars_are_the_recalls_of_scikit_learn_the_worst_first() -> None:
    given = classes(10)
    axes = dict(given.figures())["classes"]().axes[0]
    expected = recall_score(given.targets, given.predicted.argmax(1), average=None)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(sorted(expected))
    worst = int(expected.argmin())
    n = int((given.targets == worst).sum())
    low, high = wilson(expected[worst] * n, n)
    (bars,) = axes.collections
    assert bars.get_segments()[0][:, 0] == pytest.approx([low, high])


def test_classes_without_samples_have_no_bar_and_no_color() -> None:
    given = classes(10)
    keep = given.targets != 4
    given = Predictions(given.predicted[keep], given.targets[keep], {}, None, given.names)
    drawn = {name: draw() for name, draw in given.figures()}
    assert len(drawn["classes"].axes[0].patches) == 9
    assert drawn.keys() == {"confusion", "classes", "calibration"}  # neither images nor features


def test_principal_axes_are_those_of_scikit_learn() -> None:
    vectors = RNG.normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    axes = draw_embedding(vectors, np.arange(50)).axes[0]
    points = np.asarray(axes.collections[0].get_offsets())
    reference = PCA(2, svd_solver="full").fit(vectors)
    expected = reference.transform(vectors)
    assert np.abs(points) == pytest.approx(np.abs(expected))  # signs are arbitrary
    shares = [axes.get_xlabel().split()[2], axes.get_ylabel().split()[2]]
    assert shares == [f"{share:.0%}" for share in reference.explained_variance_ratio_]
    draw_embedding(np.ones((4, 3)), np.arange(4))  # no variance


def test_samples_are_the_least_probable_and_one_of_each_class() -> None:
    given = classes(10)
    rows = given.guesses()
    own = given.predicted[np.arange(400), given.targets]
    known = np.array([*given.images])
    worst = known[own[known].argsort()[:8]]
    for sample, i in zip(rows["worst"], worst, strict=True):
        assert sample.pixels is given.images[i]
        assert sample.caption.startswith(f"is class \\${given.targets[i]}\n")
        assert sample.right == (given.predicted[i].argmax() == given.targets[i])
    assert len({sample.caption.splitlines()[0] for sample in rows["typical"]}) == 8


def test_labels_have_the_average_precision_of_scikit_learn() -> None:
    targets, p = RNG.integers(2, size=(90, 4)), RNG.random((90, 4))
    drawn = {name: draw() for name, draw in Predictions(p, targets, {3: np.zeros((4, 4), np.uint8)}).figures()}
    expected = average_precision_score(targets, p, average=None)
    assert [bar.get_width() for bar in drawn["classes"].axes[0].patches] == pytest.approx(sorted(expected))
    assert drawn.keys() == {"classes", "calibration", "samples"}


def test_masks_have_the_intersections_of_scikit_learn() -> None:
    targets, p = RNG.integers(3, size=(2, 9, 16, 12))
    images = {i: np.zeros((16, 12, 3), np.uint8) for i in range(9)}
    given = Predictions(p, targets, images)
    bars = dict(given.figures())["classes"]().axes[0].patches
    expected = jaccard_score(targets.ravel(), p.ravel(), average=None)
    assert [bar.get_width() for bar in bars] == pytest.approx(sorted(expected))
    each = sorted(jaccard_score(a.ravel(), b.ravel(), average="macro") for a, b in zip(targets, p, strict=True))
    captions = [sample.caption for sample in given.overlays()["image"][:4]]
    assert captions == [f"worst\nIoU {value:.2f}" for value in each[:4]]


def test_neighbors_are_the_most_similar_others() -> None:
    vectors = RNG.normal(size=(40, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    targets = np.arange(40) % 4
    images = {i: np.full((4, 4), i, np.uint8) for i in range(40)}
    rows = Predictions(vectors, targets, images).neighbors()
    query, *found = rows["sample 6"]
    order = (-vectors @ vectors[6]).argsort()[1:8]
    assert query.caption == "is 2"
    assert [sample.pixels[0, 0] for sample in found] == order.tolist()
    assert [sample.right for sample in found] == [i % 4 == 2 for i in order]


CASES: dict[str, Callable[[], Predictions]] = {
    "two small": lambda: classes(2, 5, (4, 4)),
    "large colored": lambda: classes(100, 600, (300, 200, 3)),
    "numbers": lambda: Predictions(
        RNG.random(30), RNG.random(30), {1: np.zeros((5, 5), np.uint8)}, RNG.random((30, 3))
    ),
    "several numbers": lambda: Predictions(RNG.random((30, 6)), RNG.random((30, 6)), {}),
    "one sample": lambda: classes(3, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_every_figure_can_be_saved(name: str) -> None:
    names = []
    for kind, draw in CASES[name]().figures():
        draw().savefig(f"{kind}.png")
        names.append(kind)
    assert names
    assert all(Path(f"{kind}.png").stat().st_size > 2000 for kind in names)


def test_what_has_no_pictures_yields_none() -> None:
    assert not [*Predictions(RNG.normal(size=(9, 4)), np.arange(9), {}).figures()]  # logits of another module
    assert not [*Predictions(np.zeros((9, 3, 4, 4)), np.zeros((9, 4, 4), int), {}).figures()]


def test_filters_and_maps_of_any_number_fit_on_a_sheet() -> None:
    for shape in ((3, 3, 5, 5), (70, 1, 3, 3), (1, 1, 2, 2)):
        axes = draw_filters(RNG.normal(size=shape)).axes
        assert sum(bool(each.images) for each in axes) == min(64, shape[0])
    assert len(draw_maps({"a": np.zeros((3, 2, 2)), "b": np.zeros((20, 9, 9))}).axes) == 20


def test_a_calibration_chart_states_the_error() -> None:
    drawn = draw_calibration(np.full(8, 0.75), np.arange(8) < 4)
    assert drawn.axes[0].get_title() == "calibration error 25.00% of 8 samples"
