"""Slices: metrics of subsets, gaps that are more than chance, and columns of a table of metadata."""

import numpy as np
import pytest
from scipy.stats import fisher_exact, hypergeom, ttest_ind

from src import UserError
from src.analysis.outputs import Outputs, score
from src.analysis.report.slices import by_column, largest_gaps, match, quarters, slices, slices_section
from src.analysis.statistics import fisher, welch, wilson

DRAW = np.random.default_rng(0)
N = 400


def classes(right: np.ndarray, targets: np.ndarray | None = None) -> Outputs:
    """Return outputs of two classes, right where told."""
    targets = DRAW.integers(2, size=len(right)) if targets is None else targets
    preds = np.eye(2)[np.where(right, targets, 1 - targets)]
    return Outputs("classes", right.astype(float), np.zeros(len(right)), preds, targets, "", ["cat", "dog"])


def numbers(errors: np.ndarray) -> Outputs:
    targets = DRAW.normal(size=(len(errors), 1))
    return Outputs("numbers", errors, errors, targets + errors[:, None], targets, "")


@pytest.mark.parametrize(("a", "n", "b", "m"), [(3, 10, 9, 10), (0, 5, 0, 9), (5, 5, 1, 9), (880, 900, 5000, 5100)])
def test_fishers_test_adds_up_tables_that_are_no_more_probable(a: int, n: int, b: int, m: int) -> None:
    p = hypergeom(n + m, n, a + b).pmf(np.arange(n + 1))
    assert fisher(a, n, b, m) == pytest.approx(p[p <= p[a] * (1 + 1e-7)].sum(), rel=1e-7)


def test_welchs_test_is_that_of_scipy() -> None:
    x, y = DRAW.normal(size=30), DRAW.normal(0.5, 3, size=200)
    assert welch(x, y) == pytest.approx(ttest_ind(x, y, equal_var=False).pvalue, rel=1e-9)
    assert welch([1.0], y) is None
    assert welch([1.0, 1.0], [2.0, 2.0, 2.0]) == 0


def test_a_slice_has_its_own_metric_and_that_of_all_others() -> None:
    o = classes(DRAW.random(N) < 0.8)
    cat, dog = slices(o)
    for row, k in ((cat, 0), (dog, 1)):
        own, rest = o.values[o.targets == k], o.values[o.targets != k]
        assert (row["samples"], row["value"], row["rest"]) == (len(own), own.mean(), rest.mean())
        assert row["interval"] == list(wilson(own.sum(), len(own)))
    table = [[o.values[o.targets == k].sum(), (1 - o.values[o.targets == k]).sum()] for k in (0, 1)]
    p = fisher_exact(np.array(table, dtype=int)).pvalue
    assert cat["p"] == dog["p"] == pytest.approx(min(1, 2 * p))  # Holm


def test_quarters_keep_equal_values_together() -> None:
    found = [*quarters("x", np.array([1.0, 2, 3, 4, 5, 6, 7, 8, np.nan]))]
    assert [name for _, name, _ in found] == ["1 to 2", "3 to 4", "5 to 6", "7 to 8"]
    assert not any(inside[8] for *_, inside in found)
    values = np.array([0.0] * 6 + [1.0, 2.0])
    assert [inside.sum() for *_, inside in quarters("x", values)] == [6, 2]
    assert [*quarters("x", np.full(3, np.nan))] == []


def test_the_planted_gap_is_named_and_no_other() -> None:
    dark = np.arange(N) < N // 4
    o = classes(DRAW.random(N) < np.where(dark, 0.6, 0.95))
    o.traits = {"brightness": np.where(dark, 10.0, 90.0) + np.arange(N) % 100 / 99, "contrast": DRAW.random(N)}
    ((text, rule),) = largest_gaps(o, slices(o))
    value, rest = 100 * o.values[dark].mean(), 100 * o.values[~dark].mean()
    assert text.startswith(f"Largest gap by other traits: accuracy is {value:.2f} %")
    assert "on the 100 samples with brightness 10 to 11," in text
    assert text.endswith(f"{rest:.2f} % on the others.")
    assert "Fisher's exact test" in rule
    assert "10 slices" in rule


def test_where_all_slices_are_alike_a_gap_is_rarely_named() -> None:
    named = 0
    for _ in range(60):
        o = classes(DRAW.random(N) < 0.8)
        o.traits = {name: DRAW.random(N) for name in "abc"}
        named += bool(largest_gaps(o, slices(o)))
    assert named <= 8  # 5 % of 60 are 3; more than 8 has a probability of 0.5 %


def test_of_numbers_the_slice_with_larger_errors_is_named() -> None:
    errors = np.abs(DRAW.normal(size=N)) * np.where(np.arange(N) < 100, 5, 1)
    o = numbers(errors)
    o.traits = {"sharpness": np.arange(N)}
    text, rule = largest_gaps(o, slices(o))[-1]
    assert f"mean absolute error is {errors[:100].mean():.4g}" in text
    assert "sharpness 0 to 99" in text
    assert "Welch" in rule
    row = next(row for row in slices(o) if row["slice"] == "0 to 99")
    half = 1.96 * errors[:100].std() / 10
    assert row["interval"] == pytest.approx([errors[:100].mean() - half, errors[:100].mean() + half], rel=0.05)


def test_slices_of_masks_and_labels_have_the_mean_of_their_samples() -> None:
    masks = DRAW.integers(3, size=(2, 20, 6, 6))
    masks[1, :10] = masks[1, :10].clip(max=1)  # class 2 is in half of the masks
    o = Outputs("masks", *score("masks", masks[0], masks[1], 3), masks[:0], masks[:0], "")
    row = next(row for row in slices(o) if row["slice"] == "2")
    each = []
    for a, b in zip(*masks[:, 10:], strict=True):
        each.append(np.mean([((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum() for k in range(3)]))
    assert (row["samples"], row["value"]) == (10, pytest.approx(np.mean(each)))
    labels = np.array([[1, 0], [0, 0], [1, 1], [0, 0]])
    preds = np.array([[0.9, 0.1], [0.1, 0.2], [0.9, 0.1], [0.8, 0.2]])
    o = Outputs("labels", *score("labels", preds, labels, 2), preds, labels, "")
    first = next(row for row in slices(o) if row["slice"] == "0")
    assert first["value"] == pytest.approx((1 + 1 / 2) / 2)
    assert first["rest"] == pytest.approx((1 + 0) / 2)  # nothing true and nothing predicted is right


def test_samples_that_are_alone_in_their_class_have_no_slice() -> None:
    embeddings, targets = DRAW.normal(size=(21, 4)), np.array([0] * 10 + [1] * 10 + [2])
    o = Outputs("embeddings", *score("embeddings", embeddings, targets, 0), embeddings, targets, "")
    assert [row["samples"] for row in slices(o)] == [10, 10]


def test_one_class_and_constant_traits_have_no_slices() -> None:
    o = classes(np.ones(5, dtype=bool), np.zeros(5, dtype=int))
    o.traits = {"brightness": np.zeros(5)}
    assert slices(o) == []
    assert slices_section(o) is None


def test_columns_are_categories_or_quarters_of_numbers() -> None:
    ages = [str(age) for age in range(40)]
    assert [name for _, name, _ in by_column("age", ages)] == ["0 to 9", "10 to 19", "20 to 29", "30 to 39"]
    found = [*by_column("sex", ["m", "f", None, "m"])]
    assert [(name, inside.tolist()) for _, name, inside in found] == [
        ("f", [False, True, False, False]),
        ("m", [True, False, False, True]),
    ]
    assert [name for _, name, _ in by_column("smokes", ["1", "0", "1"])] == ["0", "1"]
    assert [*by_column("patient", [f"p{i}" for i in range(60)])] == []


def test_a_column_with_the_name_of_a_trait_stays_apart() -> None:
    o = classes(DRAW.random(8) < 0.5, np.array([0, 1] * 4))
    found = slices(o, {"class": [*"aabbaabb"]})
    assert [(row["by"], row["slice"]) for row in found] == [
        *(("class", name) for name in ("cat", "dog")),
        *(("column class", name) for name in "ab"),
    ]


def test_a_table_is_matched_by_name_in_any_order() -> None:
    o = classes(np.ones(3, dtype=bool))
    table = [{"site": "b", "file": "test/2"}, {"site": "a", "file": "test/0"}, {"site": "", "file": "test/1"}]
    assert match(o, table, "x.csv") == {"site": ["a", None, "b"]}
    o.names = ["cat/1.png", "cat/2.png", "dog/1.png"]
    assert match(o, [{"name": "dog/1.png", "age": "7"}], "x.csv") == {"age": [None, None, "7"]}


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ([{"file": "a.png", "x": "1"}], "no name in its column file .* got 'a.png', expected names such as 'test/0'"),
        ([{"file": "test/0"}], "has no column but file"),
        ([{"file": "test/0", "x": "1"}, {"file": "test/0", "x": "2"}], "has the same name twice"),
    ],
)
def test_a_table_of_other_samples_is_refused(table: list[dict[str, str]], text: str) -> None:
    with pytest.raises(UserError, match=text):
        match(classes(np.ones(3, dtype=bool)), table, "x.csv")


def test_of_many_classes_the_weakest_are_shown() -> None:
    targets = np.arange(800) % 40
    right = DRAW.random(800) < np.linspace(0.2, 0.9, 40)[targets]
    o = Outputs("classes", right.astype(float), np.zeros(800), np.eye(40)[targets], targets, "")
    rows = slices_section(o)["rows"]
    assert len(rows) == 30
    shown = [float(row[2].split()[0]) for row in rows]
    assert shown == sorted(shown)
