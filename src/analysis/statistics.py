"""Intervals, paired tests and calibration of results on a finite test set."""

import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
DRAWS = 2000  # of a bootstrap; the ends of its intervals then vary by about 3 % of their length
BINS = 15  # of the calibration error; Guo et al., 2017, arXiv:1706.04599


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Return Wilson's interval of a proportion, which has a length also at 0 % and 100 %; (0, 1) without samples."""
    from scipy.special import ndtri  # slow to import

    if not n:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2))
    p, d = successes / n, 1 + z * z / n
    center, half = (p + z * z / (2 * n)) / d, z / d * (p * (1 - p) / n + (z / (2 * n)) ** 2) ** 0.5
    return max(0.0, center - half), min(1.0, center + half)


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the p-value of McNemar's exact test, given on how many samples only the first and the second is right."""
    from scipy.special import bdtr  # slow to import

    return min(1.0, 2 * float(bdtr(min(first_only, second_only), first_only + second_only, 0.5)))


def fisher(a: int, n: int, b: int, m: int) -> float:
    """Return the p-value of Fisher's exact test, two-sided, that a of n and b of m are equally frequent."""
    from scipy.stats import fisher_exact  # slow to import

    return float(fisher_exact([[a, n - a], [b, m - b]]).pvalue)


def welch(x: NDArray[Any], y: NDArray[Any]) -> float | None:
    """Return the p-value of Welch's t-test that two means are equal; None if a sample has fewer than two values."""
    from scipy.stats import ttest_ind_from_stats  # slow to import

    if min(len(x), len(y)) < 2:
        return None
    (a, u, n), (b, v, m) = ((np.mean(each), np.std(each, ddof=1), len(each)) for each in (x, y))
    return float(ttest_ind_from_stats(a, u, n, b, v, m, equal_var=False).pvalue if u + v else a == b)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number; Holm, 1979."""
    known = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    scaled = accumulate((min(1.0, (len(known) - rank) * p) for rank, (p, _) in enumerate(known)), max)
    found = {i: p for (_, i), p in zip(known, scaled, strict=True)}
    return [found.get(i) for i in range(len(ps))]


def student(values: ArrayLike, confidence: float = 0.95) -> float:
    """Return the half length of Student's t interval for the mean of values, such as of several seeds; NaN for one."""
    from scipy.special import stdtrit  # slow to import

    x = np.asarray(values, dtype=float)
    n = len(x)
    return float(x.std(ddof=1) / n**0.5 * stdtrit(n - 1, 0.5 + confidence / 2)) if n > 1 else float("nan")


def bootstrap_mean(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the percentile bootstrap interval of the mean of one value per sample, (N,).

    Of the differences between two runs on the same samples, this is the paired bootstrap.
    """
    x = np.asarray(values, dtype=float)
    unique, inverse = np.unique(x, return_inverse=True)
    draw = np.random.default_rng(0)
    if len(unique) <= 64:  # resampling few values is drawing their counts
        means = draw.multinomial(len(x), np.bincount(inverse) / len(x), size=DRAWS) @ unique / len(x)
    else:
        means = np.array([x[draw.integers(len(x), size=len(x))].mean() for _ in range(DRAWS)])
    return ends(means, confidence)


def ends(values: NDArray[Any], confidence: float = 0.95) -> Interval:
    """Return the ends of the middle part of values."""
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def resampling(n: int, draws: int) -> NDArray[np.float32]:
    """Return how often each of n samples is in each bootstrap sample, (draws, n)."""
    draw = np.random.default_rng(0)
    counts = [np.bincount(draw.integers(n, size=n), minlength=n) for _ in range(draws)]  # faster than a multinomial
    return np.array(counts, dtype=np.float32)


def confusion(predicted: NDArray[Any], true: NDArray[Any], k: int) -> NDArray[Any]:
    """Return the counts (K, K) of true classes, in rows, and predicted ones."""
    return np.bincount(true.ravel().astype(np.int64) * k + predicted.ravel(), minlength=k * k).reshape(k, k)


def confusions(predicted: NDArray[Any], true: NDArray[Any], k: int) -> NDArray[Any]:
    """Return true positives, false positives and false negatives of each class, (K, 3)."""
    table = confusion(predicted, true, k)
    hit = np.diag(table)
    return np.stack([hit, table.sum(0) - hit, table.sum(1) - hit], 1)


def f1_intervals(counts: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Return F1 of each class with its 95 % bootstrap interval: (K, 3) of value, low and high; NaN if not defined.

    Resampling n samples is drawing the true positives, false negatives and false positives of each class, ``counts``
    (K, 3), from a multinomial distribution: what other cells of the confusion matrix hold does not matter.
    """
    cells = np.concatenate([counts, n - counts.sum(1, keepdims=True)], 1)
    drawn = np.random.default_rng(0).multinomial(n, cells / n, size=(DRAWS, len(cells)))
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of columns that are all NaN
        return np.stack([f1(counts), *np.nanquantile(f1(drawn), [0.025, 0.975], axis=0)], axis=1)


def f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return F1 of true positives, false negatives and false positives, (..., 3) or more: (...); NaN without any."""
    hit, missed, wrong = np.moveaxis(counts, -1, 0)[:3]
    with np.errstate(invalid="ignore"):
        return 2 * hit / (2 * hit + missed + wrong)


def calibration(confidence: ArrayLike, right: ArrayLike) -> tuple[float, NDArray[np.float64]]:
    """Return the expected calibration error, and for each bin its mean confidence, accuracy and number of samples.

    The error is the mean over samples of how far the accuracy of their bin is from its mean confidence;
    arXiv:1706.04599, equation 3. The bins, of equal width, are closed on the left. ``confidence`` (N,) is the
    probability of the predicted class.
    """
    p, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    index = np.minimum((p * BINS).astype(int), BINS - 1)
    counts, sums, hits = (np.bincount(index, weights=w, minlength=BINS) for w in (None, p, hit))
    used = counts > 0
    bins = np.stack([sums[used] / counts[used], hits[used] / counts[used], counts[used]], axis=1)
    return float(np.abs(bins[:, 0] - bins[:, 1]) @ bins[:, 2] / len(p)), bins
