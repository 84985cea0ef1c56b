"""What a check measures of each picture, and which pictures stand out."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d

SIDE = 32  # pixels of the pictures that are compared
RARE = 0.02  # largest fraction of a data set that can stand out; what is more frequent is its style
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


def outliers(values: dict[str, NDArray[np.float64]]) -> list[tuple[int, str, float]]:
    """Return index, kind and value of blank, dark, light and blurred pictures and those of few gray levels.

    Each is extreme in itself, and rare in its data set: night shots, X-rays and drawings are not named.
    """
    v = values
    blank = v["std"] < 2
    kinds = {"blank": (blank, v["std"])}
    kinds["dark"] = (~blank & (v["dark"] < 40) & (robust_z(v["dark"]) < -3), v["dark"])
    kinds["light"] = (~blank & (v["light"] > 215) & (robust_z(v["light"]) > 3), v["light"])
    blurred = (v["sharpness"] < -2.3) & (robust_z(v["sharpness"]) < -4)
    kinds["blurred"] = (~blank & blurred, v["sharpness"])
    few = (v["levels"] <= 8) & (np.median(v["levels"]) > 32)
    kinds["few gray levels"] = (~blank & few, v["levels"])
    found = []
    for kind, (mask, value) in kinds.items():
        if mask.sum() <= max(1, RARE * len(mask)):
            found += [(int(i), kind, round(float(value[i]), 3)) for i in mask.nonzero()[0]]
    return found


def odd_sizes(sizes: list[tuple[int, int]]) -> list[tuple[int, str, float]]:
    """Return index, kind and aspect ratio of pictures with an odd size, given width and height of each.

    If nearly all have one size, the others are odd; otherwise those with an aspect ratio or area far from the median.
    """
    if not sizes:
        return []
    array = np.array(sizes, dtype=float)
    unique, inverse, counts = np.unique(array, axis=0, return_inverse=True, return_counts=True)
    aspect, area = np.log(array[:, 0] / array[:, 1]), np.log(array.prod(1))
    if counts.max() >= 0.95 * len(array) and len(unique) > 1:
        odd = inverse.ravel() != counts.argmax()
        return [(int(i), "odd size", round(float(np.exp(aspect[i])), 3)) for i in odd.nonzero()[0]]
    shapes = {"odd aspect": np.abs(aspect - np.median(aspect)) > np.log(3)}
    shapes["odd size"] = (np.abs(area - np.median(area)) > np.log(16)) & ~shapes["odd aspect"]
    found = []
    for kind, mask in shapes.items():
        if mask.sum() <= max(1, RARE * len(array)):
            found += [(int(i), kind, round(float(np.exp(aspect[i])), 3)) for i in mask.nonzero()[0]]
    return found
