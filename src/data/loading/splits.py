"""Subsets of a dataset, and k-fold splits of the training set."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import Dataset

from src import UserError, require

Folds = int | Literal["groups"]
NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


@dataclass
class Samples(Dataset):
    """A subset of images and (except for prediction) targets, selected by ``index`` (N,); all by default.

    ``images`` is a tensor (M, C, H, W), or anything that returns one when indexed with a tensor, such as ImageFiles.
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
        """Class of each sample (N,), int64; None if the targets are not classes."""
        return self.targets[self.index].long() if has_classes(self.targets) else None

    def __getitem__(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Return dataset indices, images and targets at positions (B,)."""
        fast = getattr(positions, "dtype", None) == torch.long  # index_select takes a third of the time of brackets
        index = self.index.index_select(0, positions) if fast else self.index[positions]
        targets = () if self.targets is None else (self.targets.index_select(0, index.to(self.targets.device)),)
        if not isinstance(self.images, Tensor):
            return index, self.images[index], *targets
        return index, self.images.index_select(0, copy_to(index, self.images.device)), *targets


def copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; the CPU does not wait for the GPU, which can read pinned memory later."""
    if device.type != "cuda" or tensor.device == device:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def has_classes(targets: Tensor | None) -> TypeGuard[Tensor]:
    return targets is not None and targets.ndim == 1 and not targets.is_floating_point()


def max_folds(images: Any, targets: Tensor | None) -> tuple[int, str]:
    """Return the largest possible number of folds, and what it is."""
    if has_classes(targets):
        return int(targets.long().bincount().max()), "size of the largest training class"
    return len(images), "number of training samples"


def split_fold(data: Any, images: Any, targets: Tensor | None) -> tuple[Samples, Samples]:
    """Return the training and the validation subset for ``data.fold``; classes are stratified. Set ``num_folds``."""
    groups = data.groups_of(data.sample_names("train", len(images))) if data.groups else None
    limits = [max_folds(images, targets)] if data.folds != "groups" else []
    limits += [(len({*groups}), "number of groups of training samples")] if groups else []
    limit, meaning = min(limits)
    require(limit > 1, f"the {meaning} must be at least 2, to train and to validate, got {limit}: add some")
    if data.folds != "groups":
        data.enforce_limit("folds", limit, meaning)
        smallest = int(targets.long().bincount().min()) if has_classes(targets) else data.folds
        few = f"a class has only {smallest} training images, fewer than {data.folds} folds"
        data.notes += [("note", few)] if smallest < data.folds else []
    data.num_folds = limit if data.folds == "groups" else data.folds
    require(data.fold < data.num_folds, f"fold must be in [0, {data.num_folds}), got {data.fold}")
    index = kfold(targets, len(images), data.folds, data.fold, data.split_seed, groups)
    train, val = (Samples(images, targets, each) for each in index)
    if groups:
        found = sorted({groups[i] for i in val.index.tolist()})
        data.notes += [("val groups", f"{', '.join(found[:5])}{', ...' if len(found) > 5 else ''}")]
        data.notes += lost_classes(data, "train", Samples(images, targets), train)
        both = {*groups} & {data.named_groups.get(name) for name in data.files.get("test", ())}
        data.notes += [("note", f"{len(both)} groups are also in the test set, such as {min(both)}")] if both else []
    return train, val


def kfold(
    targets: Tensor | None, count: int, folds: Folds, fold: int, seed: int, groups: Sequence[str] | None
) -> tuple[Tensor, Tensor]:
    """Return indices of training and validation samples for one fold; no group is in both."""
    from sklearn.model_selection import (  # slow to import
        GroupKFold,
        KFold,
        LeaveOneGroupOut,
        StratifiedGroupKFold,
        StratifiedKFold,
    )

    kinds: Any = (StratifiedGroupKFold, GroupKFold) if groups else (StratifiedKFold, KFold)
    kind = kinds[0 if has_classes(targets) else 1]
    splitter = LeaveOneGroupOut() if folds == "groups" else kind(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings(action="ignore"):  # of classes that not every fold has
        train, val = next(islice(splitter.split(torch.arange(count), targets, groups), fold, None))
    return torch.from_numpy(train), torch.from_numpy(val)


def lost_classes(data: Any, split: str, before: Samples, after: Samples) -> list[tuple[str, str]]:
    """Return a note that names the classes of which a split has no samples left, if any."""
    if before.classes is None or after.classes is None:
        return []
    lost = sorted({*before.classes.tolist()} - {*after.classes.tolist()})
    names = ", ".join(data.class_names[k] if data.class_names else str(k) for k in lost[:5])
    return [("note", f"{split} has no samples left of {len(lost)} classes: {names}")] if lost else []


def hold_out(targets: Tensor, fraction: float, name: Any, groups: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Return sorted indices of training and test samples: a fixed fraction, stratified by class, one per class.

    With groups, about that fraction, without splitting a group.
    """
    if groups:
        folds = min(max(round(1 / fraction), 2), len({*groups}), max_folds(targets, targets)[0])
        require(len({*groups}) > 2, f"data.groups needs at least 3 groups in {name}: to train, to validate and to test")
        return kfold(targets, len(targets), folds, 0, 0, groups)
    from sklearn.model_selection import train_test_split  # slow to import

    classes = targets if has_classes(targets) else None
    count = max(ceil(fraction * len(targets)), 0 if classes is None else len(classes.unique()))
    try:
        sets = train_test_split(torch.arange(len(targets)), test_size=count, random_state=0, stratify=classes)
    except ValueError:
        needs = f"at least 2 samples{' of each class' if classes is not None else ''}, one of them for training"
        remedy = "add some, or a test/ folder" if Path(name).is_dir() else "add some"
        text = f"cannot hold out {fraction:.0%} of {name} for testing, which needs {needs}: {remedy}"
        raise UserError(text) from None
    return sets[0].sort().values, sets[1].sort().values


def find_split(root: Path, split: str) -> Path | None:
    """Return the folder in root that has a usual name of a split, if any; refuse several."""
    folders = sorted(root.iterdir()) if root.is_dir() else []
    found = [each for each in folders if each.name.lower() in NAMES[split] and each.is_dir()]
    several = " and ".join(f"{each.name}/" for each in found)
    require(len(found) < 2, f"{root} has {several}, which all mean {split}: keep one of them")
    return found[0] if found else None


def move_to_device(samples: Samples, others: Iterable[Samples], device: torch.device) -> None:
    """Move in-memory images to the GPU if it has room for twice their size; other subsets of the tensor follow."""
    images = samples.images
    if device.type != "cuda" or not isinstance(images, Tensor) or images.device == device:
        return
    if 2 * images.nbytes < torch.cuda.mem_get_info(device)[0]:
        moved = images.to(device)
        for subset in [other for other in others if other.images is images]:
            subset.images = moved


def digest(files: Any, *subsets: Samples) -> str:
    """Return a hash of the sample indices of the subsets, and of the names of their files."""
    return sha256(repr(files).encode() + b"".join(s.index.numpy().tobytes() for s in subsets)).hexdigest()[:16]
