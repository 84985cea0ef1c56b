"""The samples that ``check`` looks at: those of a data module, or the batches of one of another project."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from PIL import Image
from torch import Tensor

from src import require
from src.analysis.data.findings import Samples
from src.commands.show import batches, leaves, owner_of_loaders
from src.config.build import Experiment
from src.data import DataModule, Table

SPLITS = ("train", "val", "test")
MOST = 100_000  # samples of a split of another project


class Joined:
    """Images of several splits as one: ``joined[index]`` is (B, C, H, W)."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts
        self.starts = torch.tensor([0, *(len(part) for part in self.parts)]).cumsum(0)

    def __getitem__(self, index: Tensor) -> Tensor:
        owner = torch.bucketize(index, self.starts, right=True) - 1
        pieces = [self.parts[k][index[owner == k] - self.starts[k]][1] for k in owner.unique().tolist()]
        return torch.cat(pieces)  # index is sorted


def own_samples(data: DataModule) -> Samples:
    """Load all splits of a data module of this project; undecodable files and missing classes are no errors."""
    data.tolerant = True
    data.prepare_data()
    for stage in ("fit", "test"):
        data.setup(stage)
    names: list[str] = []
    splits: list[str] = []
    train = data.splits["train"]
    for split in SPLITS:
        part = data.splits[split]
        known = data.sample_names("train" if part.images is train.images else split, len(part.images))
        names += [known[i] for i in part.index.tolist()]
        splits += [split] * len(part)
    parts = [data.splits[split] for split in SPLITS]
    targets = joined([None if part.targets is None else part.targets[part.index] for part in parts])
    common: dict[str, Any] = {"targets": targets, "class_names": data.class_names or []}
    if not data.holds_images:
        inputs = torch.cat([part.images[part.index].flatten(1) for part in parts])
        return Samples(names, splits, inputs=inputs, **common)
    root = data.root if data.files and all((data.root / name).is_file() for name in names[:1]) else None
    return Samples(names, splits, images=Joined(parts), root=root, **common)


def other_samples(x: Experiment) -> Samples:
    """Read the batches of another project's loaders: the first tensor as inputs, and classes if there are any.

    Inputs that are no bytes are scaled so that all of the first batch are in [0, 255].
    """
    owner = owner_of_loaders(x, "check")
    inputs: list[Tensor] = []
    classes: list[Tensor | None] = []
    names: list[str] = []
    for split in [each for each in SPLITS if is_overridden(f"{each}_dataloader", owner)]:
        if split == "test":
            owner.setup("test")
        before = len(names)
        for batch, known in inputs_and_classes(getattr(owner, f"{split}_dataloader")()):
            if not inputs:
                low, high = batch.float().aminmax()
            scaled = batch if batch.dtype == torch.uint8 else ((batch.float() - low) * 255 / (high - low).clamp(1e-9))
            inputs.append(scaled.clamp(0, 255).round().byte() if batch.ndim == 4 else batch.float().flatten(1))
            classes.append(known)
            names += [f"{split}/{len(names) - before + i}" for i in range(len(batch))]
            if len(names) - before >= MOST:
                break
    require(inputs, "check found no batch with a tensor of several samples")
    same = len({each.shape[1:] for each in inputs}) == 1
    require(same, "check needs inputs of one shape, but the batches of this data have several")
    together, splits = torch.cat(inputs), [name.split("/")[0] for name in names]
    if together.ndim == 4 and together.shape[1] in (1, 3, 4):
        return Samples(names, splits, images=together, targets=joined(classes))
    return Samples(names, splits, inputs=together, targets=joined(classes))


def joined(parts: list[Tensor | None]) -> Tensor | None:
    found = [each for each in parts if each is not None]
    return torch.cat(found) if len(found) == len(parts) else None


def inputs_and_classes(loader: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the inputs of each batch, and its classes (N,) if it has integers of that shape."""
    for batch in batches(loader):
        tensors = [value for _, value in leaves(batch) if isinstance(value, Tensor)]
        inputs = next((value for value in tensors if value.ndim > 1), None)
        if inputs is not None:
            whole = [v for v in tensors if v.shape == inputs.shape[:1] and not v.is_floating_point() and v.min() >= 0]
            yield inputs.cpu(), whole[0].cpu() if whole else None


def file_facts(root: Path, names: list[str]) -> tuple[list[tuple[int, int]], Counter[str]]:
    """Return width and height of each image file, and how many have which mode; only headers are read."""
    sizes, modes = [], Counter[str]()
    for name in names:
        with Image.open(root / name) as image:
            sizes.append(image.size)
            modes[image.mode] += 1
    return sizes, modes


def constant_columns(data: Any) -> list[str]:
    """Return the input columns of a table that have the same value in all rows."""
    if not isinstance(data, Table):
        return []
    rows = [*data.read_rows().values()]
    names = data.columns or [name for name in rows[0] if name and name not in data.target]
    return [name for name in names if len({row[name].strip() for row in rows}) == 1]
