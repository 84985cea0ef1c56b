"""What a check of data finds: undecodable files, duplicates, conflicts, suspect labels and outliers, by name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.analysis.data import duplicates, images, labels

SAME = 0.95  # score of near duplicates that are one picture, so that two labels are a conflict
ALMOST = 0.97  # score of near duplicates whose files are compared in full size
MOST_SUSPECTS = 0.05  # fraction of the samples in the ranking, but at least 1,000


@dataclass
class Samples:
    """All samples to check, those of train first, then val, then test."""

    names: list[str]
    splits: list[str]  # of each sample
    images: Any = None  # images[index] is (B, C, H, W), uint8; None for a table
    inputs: Tensor | None = None  # (N, D), of a table
    targets: Tensor | None = None  # classes (N,), numbers (N,) or (N, D), masks (N, H, W), or none
    class_names: list[str] = field(default_factory=list)  # empty unless targets are classes
    root: Path | None = None  # of image files

    @property
    def classes(self) -> Tensor | None:
        """Class of each sample (N,); None if the targets are not classes."""
        single = self.targets is not None and self.targets.ndim == 1 and not self.targets.is_floating_point()
        return self.targets.long() if single else None  # type: ignore[union-attr]


def check(samples: Samples, loose: bool = False) -> dict[str, Any]:
    """Return exact and near duplicates, label conflicts, suspect labels and outliers, by index of the samples.

    Near duplicates are the most similar earlier picture, in each split, of each picture; ``all_near`` has all pairs.
    """
    found: dict[str, Any] = {"all_near": [], "near": [], "exact": [], "conflicts": [], "outliers": [], "complete": True}
    if samples.images is not None:
        found |= check_pictures(samples, loose)
    elif samples.inputs is not None:
        rows = samples.inputs if samples.targets is None else torch.cat([samples.inputs, columns(samples.targets)], 1)
        found["exact"] = duplicates.exact_pairs([row.tobytes() for row in rows.float().numpy()])
        found["features"] = labels.standardized(samples.inputs.float().clone())
    features = found.pop("features", None)
    found["suspects"] = [] if features is None else suspects(samples, features)
    found["outliers"] += odd_targets(samples)
    return found


def columns(targets: Tensor) -> Tensor:
    return targets.float().view(len(targets), -1)


def check_pictures(samples: Samples, loose: bool) -> dict[str, Any]:
    count = len(samples.names)
    seen = images.measure((samples.images[index] for index in torch.arange(count).split(250)), count)
    groups = [samples.splits.count(split) for split in ("train", "val", "test")]
    digests, spread = seen.digests, seen.values["std"]
    exact = [pair for pair in duplicates.exact_pairs(digests) if spread[pair[0]] > 0]  # not of one color
    near, complete = duplicates.near_pairs(seen.small, groups, loose)
    near = [(i, j, score) for i, j, score in near if digests[i] != digests[j] and spread[i] > 0]
    if samples.root is not None:  # files of other formats and sizes
        files = [samples.root / name for name in samples.names]
        equal = {(i, j) for i, j, s in near if s >= ALMOST and duplicates.same_pixels(files[i], files[j])}
        exact += [(i, j, 1.0) for i, j in sorted(equal)]
        near = [pair for pair in near if pair[:2] not in equal]
    conflicts = []
    if (classes := samples.classes) is not None:
        pairs = [*exact, *(pair for pair in near if pair[2] >= SAME)]
        conflicts = [pair for pair in pairs if classes[pair[0]] != classes[pair[1]]]
    found = {"exact": exact, "all_near": near, "near": best(near, samples.splits), "conflicts": conflicts}
    odd = images.outliers(seen.values)
    predictable = samples.targets is not None and samples.targets.ndim < 3
    features = labels.picture_features(seen.small) if predictable and len(seen.small) >= labels.FEW else None
    values = {name: float(seen.values[name].mean()) for name in ("mean", "std")}
    return found | {"outliers": odd, "features": features, "complete": complete, "pixels": values}


def best(pairs: Sequence[duplicates.Pair], splits: Sequence[str]) -> list[duplicates.Pair]:
    """Return for each later picture its most similar earlier one in each split, in the order of the pairs."""
    kept: dict[tuple[int, str], duplicates.Pair] = {}
    for pair in pairs:
        kept.setdefault((pair[1], splits[pair[0]]), pair)
    return [*kept.values()]


def suspects(samples: Samples, features: Tensor) -> list[tuple[int, str, str, float]]:
    """Return index, given and suggested label, and score, most suspect first."""
    limit = max(1000, int(MOST_SUSPECTS * len(samples.names)))
    if (classes := samples.classes) is not None:
        kinds, known = classes.unique(return_inverse=True)
        names = [samples.class_names[k] if samples.class_names else str(k) for k in kinds.tolist()]
        ranked = labels.rank_classes(features, known)[:limit]
        return [(i, names[given], names[other], round(score, 4)) for i, given, other, score in ranked]
    if samples.targets is None or samples.targets.ndim > 2:
        return []
    found = []
    for i, k, *values, score in labels.rank_numbers(features, columns(samples.targets))[:limit]:
        given, other = (f"{f'{k}: ' if samples.targets.ndim == 2 else ''}{value:.4g}" for value in values)
        found.append((i, given, other, round(score, 4)))
    return found


def odd_targets(samples: Samples) -> list[tuple[int, str, float]]:
    """Return index, kind and value of numbers far from the others, and of masks with one class, if these are rare."""
    targets = samples.targets
    if targets is None or samples.classes is not None:
        return []
    if targets.ndim == 3:
        flat = targets.flatten(1)
        return images.rare("mask of one class", (flat == flat[:, :1]).all(1).numpy(), flat[:, 0].numpy())
    found = []
    for column in columns(targets).T.double().numpy():
        far = abs(images.robust_z(column)) > 8
        found += images.rare("target far from others", far, column, digits=15) if len({*column.tolist()}) > 2 else []
    return found


def to_leave_out(samples: Samples, found: dict[str, Any]) -> list[int]:
    """Return the samples without which no picture is twice in the data, nor in two splits, nor has two labels.

    Of exact duplicates, the first one of the latest split stays; of near duplicates across splits, the later split's;
    of a conflict, none.
    """
    order = {"train": 0, "val": 1, "test": 2}
    ranks = [order[split] for split in samples.splits]
    gone = {i for pair in found["conflicts"] for i in pair[:2]}
    gone |= {j for i, j, _ in found["exact"] if i in gone}
    groups: dict[int, list[int]] = {}
    for i, j, _ in found["exact"]:
        groups.setdefault(i, [i]).append(j)
    for group in groups.values():
        left = [i for i in group if i not in gone]
        gone |= {*left} - {max(left, key=lambda i: (ranks[i], -i), default=None)}
    for i, j, _ in found["all_near"]:
        if ranks[i] != ranks[j] and not {i, j} & gone:
            gone.add(i)
    return sorted(gone)
