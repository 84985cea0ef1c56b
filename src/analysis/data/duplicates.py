"""Exact and near duplicates among pictures, within and across splits."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity, normalize

from src.analysis.data.images import pooled, principal_axes

STRICT, LOOSE = 0.78, 0.575  # scores of near duplicates
GAP = 0.35  # a duplicate's score exceeds by this what the picture shares with others that resemble it
COMPONENTS, FEW = 128, 1000  # of the PCA, and the number of pictures that are too few to whiten
STRANGERS = 3000  # pictures that each candidate is compared with
MOST = 5000  # pairs that are looked at closely, at least
PAIRS = 2e10  # of pictures that can be compared in about two minutes
Pair = tuple[int, int, float]  # indices of two pictures, the earlier first, and their score in [-1, 1]


def exact_pairs(digests: Sequence[bytes]) -> list[Pair]:
    """Return the first picture of each group with equal digests, paired with each other one of the group."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, each in enumerate(digests):
        groups[each].append(i)
    return [(group[0], i, 1.0) for group in groups.values() for i in group[1:]]


def near_pairs(small: Tensor, groups: Sequence[int], loose: bool = False) -> tuple[list[Pair], bool]:
    """Return pairs of pictures that look the same, most similar first, and whether all pairs were compared.

    Candidates are close in the whitened principal components of colors, 16 x 16. The score is the mean of this cosine
    and of the correlation of the local structure in gray, at the best shift of up to a tenth of the picture. Pictures
    whose kind is alike, such as drawings of the digit 1, are no duplicates: both must resemble each other much more
    than they resemble the most similar of other pictures. ``groups`` has the number of pictures in each split; where
    all pairs are too many, those within the first are left out. ``loose`` pairs are less alike, with more false alarms.
    """
    threshold = LOOSE if loose else STRICT
    if len(small) < 2:
        return [], True
    features = components(small)
    complete = len(small) ** 2 / 2 <= PAIRS
    first, second, cosines = candidates(features, max(0.5, 2 * threshold - 1), 0 if complete else groups[0])
    local = structure(small)
    scores = (cosines + correlation(local, first, second)) / 2
    keep = (scores >= threshold).nonzero()[:, 0]
    keep = keep[scores[keep].argsort(descending=True, stable=True)][: max(MOST, len(small) // 10)]
    first, second, scores = first[keep], second[keep], scores[keep]
    usual = torch.maximum(*(resemblance(features, local, index) for index in (first, second)))
    alike = scores - usual >= (GAP / 2 if loose else GAP)
    alike |= 1 - scores < (1 - usual) / 20  # copies that were compressed again, even of drawings
    found = zip(first[alike].tolist(), second[alike].tolist(), scores[alike].tolist(), strict=True)
    return [(i, j, round(score, 4)) for i, j, score in found], complete


def components(small: Tensor) -> Tensor:
    """Return features (N, D) of unit length: whitened principal components, or centered pixels of few pictures."""
    mean, variances, axes = principal_axes(small, COMPONENTS)
    used = variances > 1e-4 * variances[-1]
    axes = axes[:, used] / variances[used].sqrt()
    parts = [pooled(batch) - mean for batch in small.split(1000)] if len(small) < FEW else []
    parts = parts or [(pooled(batch) - mean) @ axes for batch in small.split(1000)]
    return normalize(torch.cat(parts), dim=1)


def candidates(features: Tensor, floor: float, skip: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return earlier and later index (M,) of the pairs with the highest cosines, and the cosines; at least ``floor``.

    Pairs whose later index is below ``skip`` are left out.
    """
    most = max(MOST, len(features) // 2)
    index, cosines = torch.empty(2, 0, dtype=torch.long), torch.empty(0)
    for start in range(skip, len(features), 250):
        rows = features[start : start + 250]
        block = rows @ features[: start + len(rows)].T
        block[:, start:].masked_fill_(torch.ones(len(rows), len(rows), dtype=torch.bool).triu(), -1)
        later, earlier = (block > floor).nonzero().T
        index = torch.cat([index, torch.stack([earlier, later + start])], 1)
        cosines = torch.cat([cosines, block[later, earlier]])
        if len(cosines) > 2 * most:
            cosines, best = cosines.topk(most)
            index, floor = index[:, best], max(floor, float(cosines[-1]))
    cosines, best = cosines.topk(min(most, len(cosines)))
    return *index[:, best], cosines


def structure(small: Tensor) -> Tensor:
    """Return pictures (N, S', S') in gray minus their local mean, without a frame, which many pictures share."""
    side = small.shape[-1]
    kernel, frame = 2 * round(side / 8) + 1, side // 16
    inner = side - 2 * frame
    found = torch.empty(len(small), inner, inner, dtype=torch.bfloat16)
    for batch, place in zip(small.split(1000), found.split(1000), strict=True):
        gray = batch.float().mean(1, keepdim=True)
        local = gray - avg_pool2d(gray, kernel, 1, kernel // 2, count_include_pad=False)
        place[:] = local[:, 0, frame : side - frame, frame : side - frame]
    return found


def correlation(local: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the largest cosine (M,) of two pictures over shifts of up to a tenth of their side."""
    side = local.shape[-1]
    reach = round(side / 10)
    shifts = [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    best = torch.full((len(first),), -1.0)
    for part in torch.arange(len(first)).split(1000):
        a, b = local[first[part]].float(), local[second[part]].float()
        for y, x in shifts:
            one = a[:, max(0, y) : side + min(0, y), max(0, x) : side + min(0, x)]
            other = b[:, max(0, -y) : side + min(0, -y), max(0, -x) : side + min(0, -x)]
            best[part] = best[part].maximum(cosine_similarity(one.flatten(1), other.flatten(1), dim=1, eps=1e-6))
    return best


def resemblance(features: Tensor, local: Tensor, index: Tensor) -> Tensor:
    """Return the score (M,) of pictures with similar ones that are no copies.

    This is the 6th of 3,000 and the 5th of fewer, because more copies of a picture are rare; -1 of too few pictures.
    """
    step = max(1, len(features) // STRANGERS)
    others = torch.arange(0, len(features), step)
    rank = max(4, len(others) // 600)
    unique, inverse = index.unique(return_inverse=True)
    if rank >= len(others) or not len(index):
        return torch.full((len(index),), -1.0)
    cosines, nearest = (features[unique] @ features[others].T).topk(rank + 1)
    chosen = others[nearest[:, rank]]
    return ((cosines[:, rank] + correlation(local, unique, chosen)) / 2)[inverse]


def same_pixels(one: Path, other: Path) -> bool:
    """Tell whether two files, of any format, have the same pixels in their full size."""
    try:
        with Image.open(one) as a, Image.open(other) as b:
            images = [ImageOps.exif_transpose(each).convert("RGBA") for each in (a, b)]
        return images[0].size == images[1].size and bool((np.asarray(images[0]) == np.asarray(images[1])).all())
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
