"""Records of a model in use: accuracy and its interval, drift by windows, and what to label next."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact, ttest_ind

from src.analysis.drift import reference
from src.analysis.outputs import Outputs, score
from src.analysis.report.in_use import in_use, reference_of, shrunk

DRAW = np.random.default_rng(0)
NOTHING: dict[str, Any] = {"traits": {}}


def one(i: int, p: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    given = {"prediction": max(p, key=p.__getitem__), "probabilities": p} if p else {}
    return shrunk({"id": f"r{i}", "time": f"2026-01-01T00:00:{i % 60:02}", "traits": {}} | given | more)


def outputs(kind: str, preds: np.ndarray, targets: np.ndarray) -> Outputs:
    return Outputs(kind, *score(kind, preds, targets, 0), preds, targets, "made")


def test_accuracy_in_use_has_wilsons_interval_and_fishers_test():
    own = [one(i, {"a": 0.9, "b": 0.1}, label="a" if i < 60 else "b") for i in range(80)] + [
        one(99, {"a": 0.9, "b": 0.1})
    ]
    preds = np.eye(2)[np.zeros(200, dtype=int)]
    found = in_use(own, outputs("classes", preds, (np.arange(200) >= 180).astype(int)), NOTHING, "")["feedback"]
    low, high = binomtest(60, 80).proportion_ci(method="wilson")
    assert (found["value"], found["samples"], found["test"], found["test_samples"]) == (0.75, 80, 0.9, 200)
    assert found["interval"] == pytest.approx([low, high])
    assert found["p"] == pytest.approx(fisher_exact([[60, 20], [180, 20]]).pvalue)


def test_errors_of_numbers_in_use_are_compared_by_welchs_test():
    labels, targets = DRAW.normal(size=50), DRAW.normal(size=90)
    own = [one(i, prediction=0.0, label=float(x)) for i, x in enumerate(labels)]
    own += [one(98, prediction=0.0, label="?"), one(99, prediction=[1.0], label=[1.0, 2.0]), one(97, prediction=1.0)]
    found = in_use(own, outputs("numbers", np.zeros(90), targets), NOTHING, "")["feedback"]
    assert found["value"] == pytest.approx(np.abs(labels).mean())
    assert found["samples"] == 50
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert found["p"] == pytest.approx(ttest_ind(np.abs(labels), np.abs(targets), equal_var=False).pvalue)


def test_labels_in_use_are_right_if_all_are():
    p = {"cat": 0.9, "dog": 0.2}
    own = [one(i, p, prediction=["cat"], label=each) for i, each in enumerate((["cat"], ["cat", "dog"], []))]
    own += [one(9, p, prediction=["cat", "dog"], label=each) for each in (["dog", "cat"], "cat", None)]
    targets = np.array([[1, 0], [1, 1]])
    found = in_use(own, outputs("labels", np.array([[1.0, 0], [1, 0]]), targets), NOTHING, "")["feedback"]
    assert (found["value"], found["test"]) == (pytest.approx(2 / 6), 0.5)
    assert own[0]["margin"] == pytest.approx(0.6)
    assert own[0]["close"] == ["dog"]


def test_without_feedback_or_with_masks_there_is_no_accuracy():
    own = [one(0, {"a": 0.9, "b": 0.1}), one(1, prediction={"back": 1.0}, label="a"), one(2, label=3)]
    assert in_use(own, None, NOTHING, "")["feedback"] is None
    assert in_use(own, None, NOTHING, "")["drift"] is None


def test_drift_is_that_of_the_newest_window_and_counts_earlier_ones():
    known = reference({"brightness": DRAW.normal(100, 5, size=2000), "edges": DRAW.normal(size=2000)})
    values = np.concatenate([DRAW.normal(130, 5, size=700), DRAW.normal(100, 5, size=400)])
    own = [one(i, traits={"brightness": x, "edges": DRAW.normal()}) for i, x in enumerate(values)]
    own[0]["traits"] = {}  # of a version with other traits
    found = in_use(own, None, known, "the test set")["drift"]
    assert (found["windows"], found["alarms"], found["samples"]) == (2, 2, 500)
    rows = {each["trait"]: each for each in found["traits"]}
    assert rows["brightness"]["drifts"]
    assert not rows["edges"]["drifts"]
    assert rows["brightness"]["reference"] == pytest.approx(100, abs=1)
    assert rows["brightness"]["median"] == pytest.approx(np.median(values[-500:]))
    late = in_use(own[700:], None, known, "the test set")["drift"]
    assert (late["windows"], late["alarms"], late["samples"]) == (1, 0, 400)


def test_the_least_sure_pictures_are_next_but_no_copies_nor_labeled_ones():
    traits = [{"brightness": float(i), "contrast": 1.0, "edges": 2.0} for i in range(9)]
    sure, unsure = {"a": 0.9, "b": 0.1}, {"a": 0.51, "b": 0.49}
    own = [
        one(0, sure, sha256="x0", traits=traits[0]),
        one(1, unsure, sha256="x1", traits=traits[1]),
        one(2, unsure, sha256="x1", traits=traits[1]),  # the same file
        one(3, unsure, sha256="x3", traits=traits[1]),  # another file of the same looks
        one(4, unsure, sha256="x4", traits=traits[4], label="a"),
        one(5, unsure, sha256="x4", traits=traits[5]),  # a copy of a labeled one
        one(6, {"a": 0.3, "b": 0.4, "c": 0.3}, name="f.png"),
    ]
    found = in_use(own, None, NOTHING, "")["next"]
    assert [each["id"] for each in found] == ["r1", "r6", "r0"]
    assert found[0]["margin"] == pytest.approx(0.02)
    assert found[1]["close"] == ["b", "c"]


def test_few_pictures_to_label_are_between_the_same_two_classes():
    own = [one(i, {"a": 0.5, "b": 0.49, "c": 0.01}, name=f"{i}") for i in range(9)]
    own += [one(20 + i, {"a": 0.8, "c": 0.2, "b": 0}, name=f"c{i}") for i in range(2)]
    assert [each["close"] for each in in_use(own, None, NOTHING, "")["next"]] == [["a", "b"]] * 4 + [["a", "c"]] * 2


@pytest.mark.parametrize(("kind", "names"), [
    ("classes", {"confidence", "entropy", "class"}), ("labels", {"labels"}), ("numbers", {"numbers 0", "numbers 1"}),
])  # fmt: skip
def test_the_test_set_is_a_reference(kind, names):
    preds = {
        "classes": DRAW.dirichlet(np.ones(3), 40),
        "labels": np.eye(2)[[0] * 40],
        "numbers": DRAW.normal(size=(40, 2)),
    }
    targets = {"classes": np.zeros(40, dtype=int), "labels": np.ones((40, 2), dtype=int), "numbers": preds["numbers"]}
    o = outputs(kind, preds[kind], targets[kind])
    o.traits = {"brightness": DRAW.random(40), "sharpness": DRAW.random(40), "size": DRAW.random(40)}
    assert {*reference_of(o)["traits"]} == names | {"brightness", "edges"}


def test_masks_are_compared_by_their_looks():
    o = Outputs("masks", np.zeros((9, 2, 3)), np.zeros(9), np.zeros((0, 8, 8)), np.zeros((0, 8, 8)), "made")
    o.traits = {"brightness": DRAW.random(9)}
    assert [*reference_of(o)["traits"]] == ["brightness"]
