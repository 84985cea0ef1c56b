"""What a check measures of each picture, and which pictures stand out."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d

SIDE = 32  # pixels of the pictures that are compared
RARE = 0.02  # largest fraction of a data set that can stand out; what is more frequent is its style
Outlier = tuple[int, str, float]  # index, kind and value
LAPLACE = torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]])


@dataclass
class Pictures:
    """What is kept of N pictures, in their order."""

    digests: list[bytes]  # equal for equal pixels
    small: Tensor  # (N, C, S, S), uint8; S is even and at most 32
    values: dict[str, NDArray[np.float64]]  # (N,) each: mean, std, dark, light, levels, sharpness


def measure(batches: Iterable[Tensor], count: int) -> Pictures:
    """Measure N pictures, ``count``, in batches (B, C, H, W), uint8.

    ``dark`` and ``light`` are gray values that 99 % of the pixels are below and above; ``levels`` counts gray values;
    ``sharpness`` is the variance of the Laplacian, relative to that of the pixels, as log10.
    """
    digests: list[bytes] = []
    small = torch.empty(0)
    values: list[Tensor] = []
    for batch in batches:
        first = len(digests)
        digests += [blake2b(image.tobytes(), digest_size=16).digest() for image in batch.numpy()]
        side = max(4, min(SIDE, *(length // 2 * 2 for length in batch.shape[2:])))
        reduced = batch if batch.shape[2:] == (side, side) else adaptive_avg_pool2d(batch.float(), side).round().byte()
        small = small if first else reduced.new_empty(count, *reduced.shape[1:])
        small[first : len(digests)] = reduced
        gray = batch.float().mean(1, keepdim=True)
        ordered = gray.flatten(1).byte().sort(1).values
        last = ordered.shape[1] - 1
        variance = gray.flatten(1).var(1, correction=0)
        edges = conv2d(gray, LAPLACE).flatten(1).square().mean(1) if min(gray.shape[2:]) > 2 else variance
        found = [gray.mean((1, 2, 3)), variance.sqrt(), ordered[:, round(0.99 * last)], ordered[:, round(0.01 * last)]]
        found += [(ordered.diff(dim=1) > 0).sum(1) + 1, ((edges + 1e-3) / (variance + 1e-3)).log10()]
        values.append(torch.stack([each.double() for each in found], 1))
    columns = torch.cat(values).numpy().T
    names = ("mean", "std", "dark", "light", "levels", "sharpness")
    return Pictures(digests, small, dict(zip(names, columns, strict=True)))


def pooled(small: Tensor) -> Tensor:
    """Return the colors of pictures in at most 16 x 16 places, (N, D), as floats."""
    return adaptive_avg_pool2d(small.float(), min(16, small.shape[-1])).flatten(1)


def principal_axes(small: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (D,), variances (K,) and axes (D, K) of the largest principal components of ``pooled`` pictures.

    They are those of up to 20,000 evenly spaced pictures, largest last.
    """
    pixels = torch.cat([pooled(batch) for batch in small[:: -(-len(small) // 20_000)].split(1000)])
    mean = pixels.mean(0)
    pixels -= mean
    covariance = (pixels.T @ pixels / len(pixels)).double()  # many equal pixels: single precision may not converge
    variances, axes = torch.linalg.eigh(covariance)
    return mean, variances[-count:].float(), axes[:, -count:].float()


def robust_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many standard deviations each value is from the median, by the median absolute deviation."""
    distance = values - np.median(values)
    return distance / max(1.4826 * float(np.median(np.abs(distance))), 1e-9)


def outliers(values: dict[str, NDArray[np.float64]]) -> list[Outlier]:
    """Return index, kind and value of blank, dark, light and blurred pictures and those of few gray levels.

    Each is extreme in itself, and rare in its data set: night shots, X-rays and drawings are not named.
    """
    dark, light, sharp, levels = (values[name] for name in ("dark", "light", "sharpness", "levels"))
    blank = values["std"] < 2
    found = rare("blank", blank, values["std"])
    found += rare("dark", ~blank & (dark < 40) & (robust_z(dark) < -3), dark)
    found += rare("light", ~blank & (light > 215) & (robust_z(light) > 3), light)
    found += rare("blurred", ~blank & (sharp < -2.3) & (robust_z(sharp) < -4), sharp)
    return found + rare("few gray levels", ~blank & (levels <= 8) & (np.median(levels) > 32), levels)


def rare(kind: str, mask: Any, value: NDArray[np.float64], most: float = RARE, digits: int = 3) -> list[Outlier]:
    """Return index, kind and value of the pictures of a mask (N,), or none if they are too many to stand out."""
    if mask.sum() > max(1, most * len(mask)):
        return []
    return [(int(i), kind, round(float(value[i]), digits)) for i in mask.nonzero()[0]]


def odd_sizes(sizes: list[tuple[int, int]]) -> list[Outlier]:
    """Return index, kind and aspect ratio of pictures with an odd size, given width and height of each.

    If nearly all have one size, the others are odd; otherwise those with an aspect ratio or area far from the median.
    """
    if not sizes:
        return []
    array = np.array(sizes, dtype=float)
    unique, inverse, counts = np.unique(array, axis=0, return_inverse=True, return_counts=True)
    ratio, area = array[:, 0] / array[:, 1], np.log(array.prod(1))
    if counts.max() >= 0.95 * len(array) and len(unique) > 1:
        return rare("odd size", inverse.ravel() != counts.argmax(), ratio, most=1)
    aspect = np.log(ratio)
    odd = np.abs(aspect - np.median(aspect)) > np.log(3)
    odd_area = np.abs(area - np.median(area)) > np.log(16)
    return rare("odd aspect", odd, ratio) + rare("odd size", odd_area & ~odd, ratio)
