"""Statistics agree with scipy, scikit-learn, torchmetrics and published values of statsmodels."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_calibration_error

from src.analysis.statistics import bootstrap_mean, calibration, f1_intervals, mcnemar, student, wilson

# Of statsmodels 0.15: proportion_confint(k, n, method="wilson") and mcnemar(..., exact=True).
WILSON = {(0, 10): (0.0, 0.27753279986288926), (9913, 10000): (0.9892817752639147, 0.9929409079370584)}


@pytest.mark.parametrize(("k", "n"), [(0, 10), (9913, 10000)])
def test_wilson_is_that_of_statsmodels(k: int, n: int) -> None:
    assert wilson(k, n) == pytest.approx(WILSON[k, n], abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (10, 10), (3, 7), (4999, 10000)])
def test_wilson_is_that_of_scipy(k: int, n: int) -> None:
    for level in (0.9, 0.95):
        oracle = stats.binomtest(k, n).proportion_ci(level, method="wilson")
        assert wilson(k, n, level) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_nothing_is_known_of_no_samples() -> None:
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 80), (700, 650)])
def test_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    oracle = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(oracle, abs=1e-12)


def test_student_is_that_of_scipy() -> None:
    values = [0.71, 0.74, 0.70, 0.75]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert student(values) == pytest.approx((high - low) / 2)
    assert np.isnan(student([1.0]))


@pytest.mark.parametrize("kinds", [3, 5000])
def test_the_bootstrap_of_a_mean_is_that_of_scipy(kinds: int) -> None:
    values = np.random.default_rng(1).integers(kinds, size=5000) / kinds
    oracle = stats.bootstrap((values,), np.mean, n_resamples=2000, method="percentile", batch=50, rng=0)
    found = bootstrap_mean(values)
    length = oracle.confidence_interval.high - oracle.confidence_interval.low
    assert found == pytest.approx(tuple(oracle.confidence_interval), abs=0.08 * length)


def test_intervals_of_classes_are_those_of_resampled_predictions() -> None:
    draw = np.random.default_rng(0)
    true = draw.integers(4, size=2000)
    predicted = np.where(draw.random(2000) < 0.8, true, draw.integers(4, size=2000))
    pairs = [((true == k), (predicted == k)) for k in range(4)]
    counts = np.array([[(a & b).sum(), (a & ~b).sum(), (~a & b).sum()] for a, b in pairs])
    found = f1_intervals(counts, 2000)
    values = precision_recall_fscore_support(true, predicted)
    resampled = []
    for _ in range(1000):
        rows = draw.integers(2000, size=2000)
        resampled.append(precision_recall_fscore_support(true[rows], predicted[rows])[:3])
    ends = np.quantile(resampled, [0.025, 0.975], axis=0)
    assert found[:, 0] == pytest.approx(values[2], abs=1e-12)
    assert found[:, 1:] == pytest.approx(ends[:, 2].T, abs=0.006)


def test_a_class_without_samples_and_predictions_has_no_f1() -> None:
    found = f1_intervals(np.array([[5, 0, 3], [0, 3, 0], [0, 0, 0]]), 8)
    assert found[:2, 0].tolist() == pytest.approx([10 / 13, 0])
    assert np.isnan(found[2]).all()


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    logits = 3 * torch.randn(3000, 5, generator=torch.Generator().manual_seed(0))
    probabilities, targets = logits.softmax(1), torch.arange(3000) % 5
    confidence, predicted = probabilities.max(1)
    error, bins = calibration(confidence, predicted == targets)
    assert error == pytest.approx(float(multiclass_calibration_error(probabilities, targets, 5, n_bins=15)), abs=1e-5)
    assert bins[:, 2].sum() == 3000


def test_confidence_of_one_is_in_the_last_bin() -> None:
    error, bins = calibration([1.0, 1.0, 0.0], [True, False, False])
    assert error == pytest.approx(1 / 3)
    assert bins.tolist() == [[0, 0, 1], [1, 0.5, 2]]
