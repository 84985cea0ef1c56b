"""Intervals, paired tests and calibration of results on a finite test set."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
DRAWS = 2000  # of a bootstrap; the ends of its intervals then vary by about 3 % of their length
BINS = 15  # of the calibration error; Guo et al., 2017, arXiv:1706.04599


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Return Wilson's interval of a proportion; (0, 1) without samples.

    It stays in [0, 1] and has a length at 0 % and 100 %, where others shrink to a point; Wilson, 1927,
    doi:10.1080/01621459.1927.10502953.
    """
    from scipy.special import ndtri  # slow to import

    if not n:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2))
    p, d = successes / n, 1 + z * z / n
    center, half = (p + z * z / (2 * n)) / d, z / d * (p * (1 - p) / n + (z / (2 * n)) ** 2) ** 0.5
    return max(0.0, center - half), min(1.0, center + half)


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the p-value of McNemar's exact test that two classifiers are equally often right.

    Args:
        first_only: samples on which only the first is right.
        second_only: samples on which only the second is right.
    """
    from scipy.special import bdtr  # slow to import

    n = first_only + second_only
    return min(1.0, 2 * float(bdtr(min(first_only, second_only), n, 0.5)))


def fisher(a: int, n: int, b: int, m: int) -> float:
    """Return the p-value of Fisher's exact test, two-sided, that a of n and b of m are equally frequent."""
    from scipy.special import gammaln  # slow to import

    def log_choose(total: int, count: ArrayLike) -> Any:
        return gammaln(total + 1) - gammaln(np.add(count, 1)) - gammaln(np.subtract(total, count) + 1)

    possible = np.arange(max(0, a + b - m), min(n, a + b) + 1)  # successes among the n, given a + b in all
    p = np.exp(log_choose(n, possible) + log_choose(m, a + b - possible) - log_choose(n + m, a + b))
    return min(1.0, float(p[p <= p[a - possible[0]] * (1 + 1e-7)].sum()))


def welch(x: ArrayLike, y: ArrayLike) -> float | None:
    """Return the p-value of Welch's t-test that two means are equal; None if a sample has fewer than two values."""
    from scipy.special import stdtr  # slow to import

    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if min(len(a), len(b)) < 2:
        return None
    u, v = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    gap = abs(a.mean() - b.mean())
    if u + v == 0:
        return float(gap == 0)
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
    return 2 * float(stdtr(freedom, -gap / (u + v) ** 0.5))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number; Holm, 1979."""
    known = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    found: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        found[i] = highest
    return found


def student(values: ArrayLike, confidence: float = 0.95) -> float:
    """Return the half length of Student's t interval for the mean of values, such as of several seeds; NaN for one."""
    from scipy.special import stdtrit  # slow to import

    x = np.asarray(values, dtype=float)
    n = len(x)
    return float(x.std(ddof=1) / n**0.5 * stdtrit(n - 1, 0.5 + confidence / 2)) if n > 1 else float("nan")


def bootstrap_mean(values: ArrayLike, confidence: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of the mean of one value per sample, (N,).

    Of the differences between two runs on the same samples, this is the paired bootstrap.
    """
    x = np.asarray(values, dtype=float)
    unique, inverse = np.unique(x, return_inverse=True)
    draw = np.random.default_rng(seed)
    if len(unique) <= 64:  # resampling few values is drawing their counts
        counts = draw.multinomial(len(x), np.bincount(inverse) / len(x), size=draws)
        means = counts @ unique / len(x)
    else:
        means = np.array([x[draw.integers(len(x), size=len(x))].mean() for _ in range(draws)])
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def resampling(n: int, draws: int, seed: int = 0) -> NDArray[np.float32]:
    """Return how often each of n samples is in each bootstrap sample, (draws, n)."""
    draw = np.random.default_rng(seed)
    counts = [np.bincount(draw.integers(n, size=n), minlength=n) for _ in range(draws)]  # faster than a multinomial
    return np.array(counts, dtype=np.float32)


def f1_intervals(counts: NDArray[np.int64], n: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Return F1 of each class with its 95 % bootstrap interval: (K, 3) of value, low and high; NaN if not defined.

    Resampling the samples is drawing, for each class, its true positives, false negatives and false positives from a
    multinomial distribution: what the other cells of the confusion matrix hold does not matter.

    Args:
        counts: true positives, false negatives and false positives of each class, (K, 3).
        n: number of samples.
        draws: number of bootstrap samples.
        seed: of the draws.
    """
    cells = np.concatenate([counts, n - counts.sum(1, keepdims=True)], 1)
    drawn = np.random.default_rng(seed).multinomial(n, cells / n, size=(draws, len(cells)))
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of columns that are all NaN
        ends = np.nanquantile(f1(drawn), [0.025, 0.975], axis=0)
    return np.stack([f1(counts), *ends], axis=1)


def f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return F1 of true positives, false negatives and false positives, (..., 3) or more: (...); NaN without any."""
    hit, missed, wrong = np.moveaxis(counts, -1, 0)[:3]
    with np.errstate(invalid="ignore"):
        return 2 * hit / (2 * hit + missed + wrong)


def calibration(confidence: ArrayLike, right: ArrayLike) -> tuple[float, NDArray[np.float64]]:
    """Return the expected calibration error, and for each bin its mean confidence, accuracy and number of samples.

    The error is the mean over samples of how far the accuracy of their bin is from its mean confidence;
    arXiv:1706.04599, equation 3. The bins, of equal width, are closed on the left.

    Args:
        confidence: probability of the predicted class, (N,).
        right: whether it is the true one, (N,).
    """
    p, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    index = np.minimum((p * BINS).astype(int), BINS - 1)
    counts, sums, hits = (np.bincount(index, weights=w, minlength=BINS) for w in (None, p, hit))
    used = counts > 0
    bins = np.stack([sums[used] / counts[used], hits[used] / counts[used], counts[used]], axis=1)
    return float(np.abs(bins[:, 0] - bins[:, 1]) @ bins[:, 2] / len(p)), bins
