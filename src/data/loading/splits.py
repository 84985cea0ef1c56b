"""Samples: the images and targets of one part of a data set."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from src import UserError


@dataclass
class Samples(Dataset):
    """Images and, but for prediction, targets; ``index`` (N,) names those that belong to this part, by default all.

    ``images`` is a tensor, or anything that an index tensor turns into one, such as ``src.data.files.Files``.
    """

    images: Any
    targets: Tensor | None
    index: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.index is None:
            self.index = torch.arange(len(self.images))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def classes(self) -> Tensor | None:
        """Return the target of each sample of this part, (N,)."""
        return None if self.targets is None else self.targets[self.index]

    def __getitem__(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Return what ``index`` says of the positions (B,), then their images and targets."""
        quick = getattr(positions, "dtype", None) == torch.long  # as from Order; brackets take three times as long
        index = self.index.index_select(0, positions) if quick else self.index[positions]
        kept = isinstance(self.images, Tensor)
        images = self.images.index_select(0, index.to(self.images.device)) if kept else self.images[index]
        if self.targets is None:
            return index, images
        return index, images, self.targets.index_select(0, index.to(self.targets.device))


def move(samples: Samples, others: Iterable[Samples], device: torch.device) -> None:
    """Put images that are in memory on an accelerator with room for them and as much again, for all who share them."""
    images = samples.images
    if device.type != "cuda" or not isinstance(images, Tensor) or images.device == device:
        return
    if 2 * images.nbytes < torch.cuda.mem_get_info(device)[0]:
        moved = images.to(device)
        for sharer in [other for other in others if other.images is images]:
            sharer.images = moved


def folded(images: Any, targets: Tensor, folds: int, fold: int, seed: int) -> tuple[Samples, Samples]:
    """Return the training part and one of its stratified folds, which share the images."""
    largest = int(targets.bincount().max())
    if folds > largest:
        raise UserError(f"folds must be at most {largest}, the training samples of the largest class, got {folds}")
    from sklearn.model_selection import StratifiedKFold  # here, since the import takes a while

    folds_of = StratifiedKFold(folds, shuffle=True, random_state=seed).split(targets, targets)
    train, val = next(islice(folds_of, fold, None))
    return Samples(images, targets, torch.from_numpy(train)), Samples(images, targets, torch.from_numpy(val))


def digest(files: Any, *parts: Samples) -> str:
    """Return a hash of which samples, and of which files, belong to which part."""
    return sha256(repr(files).encode() + b"".join(part.index.numpy().tobytes() for part in parts)).hexdigest()[:16]
