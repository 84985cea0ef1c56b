"""What a run of image files says before training: the images of each class and split, and the files it leaves out."""

from collections import Counter

import torch
from torch import Tensor

Rows = list[tuple[str, str]]  # names and values, printed in two columns
Subset = tuple[Tensor, Tensor]  # digests of the pixels and classes, (N,) each
MAX_CLASSES = 20


def describe(
    subsets: dict[str, Subset], names: list[str], left_out: Counter[str], bad: list[str], nested: Counter[str]
) -> Rows:
    """Return the table of a run: images per class and split, what was left out and why, and what may be unexpected.

    ``left_out`` counts other files by kind, ``bad`` has the errors of undecodable images, and ``nested`` counts images
    in subfolders by class.
    """
    rows = split_table(subsets, names) + left_out_rows(left_out)
    rows += [("left out", f"{len(bad)} that cannot be decoded, first: {bad[0]}")] if bad else []
    rows += [("note", f"images in subfolders of {name}, {count}, count as {name}") for name, count in nested.items()][
        :5
    ]
    return rows + copies(subsets)


def split_table(subsets: dict[str, Subset], names: list[str]) -> Rows:
    """Return a table with one row for each of the first classes, and a column for each split."""
    counts = torch.stack([targets.bincount(minlength=len(names)) for _, targets in subsets.values()])  # (splits, K)
    rows = [("images", "".join(f"{split:>8}" for split in subsets))]
    shown = dict(zip(names[:MAX_CLASSES], counts.T.tolist(), strict=False))
    shown |= {"all": counts.sum(1).tolist()}
    rows += [(name[:40], "".join(f"{count:>8,}" for count in row)) for name, row in shown.items()]
    return rows + ([("note", f"{len(names) - MAX_CLASSES} more classes")] if len(names) > MAX_CLASSES else [])


def left_out_rows(kinds: Counter[str]) -> Rows:
    """Return how many files of which kinds are not used."""
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6))
    listed += f" and {len(kinds) - 6} more kinds" if len(kinds) > 6 else ""
    heic = [("", "to use .heic, install pillow-heif")] if {".heic", ".heif"} & kinds.keys() else []
    return [("left out", listed), *heic] if kinds else []


def copies(subsets: dict[str, Subset]) -> Rows:
    """Return how many validation and test images have the pixels of an image of an earlier split."""
    rows, seen = [], torch.empty(0, dtype=torch.long)
    for split, (digests, _) in subsets.items():
        if count := int(torch.isin(digests, seen).sum()):
            rows += [("note", f"{count} of {len(digests)} {split} images are copies of images in an earlier split")]
        seen = torch.cat([seen, digests])
    return rows
