"""shard: write a data set as shards, for data beyond memory or in a bucket."""

from pathlib import Path

import torch

from src import UserError, require
from src.config.arguments import Options
from src.config.build import Experiment, build
from src.config.parser import parse
from src.data import DataModule, ImageFolder
from src.data.loading.shards import MANIFEST
from src.data.loading.write_shards import ImageSet, write
from src.runs.summary import print_rows

SMALLEST = 4096  # bytes


def run(options: Options, *, output: Path | None = None, shard_mb: float = 64.0) -> Experiment:
    """Write data as shards, which src.data.ShardFolder reads.

    Image files are copied as they are; other images, and those with masks, become PNG files. Started again after an
    interruption, it keeps the shards that are written.

    Args:
        output: an empty folder; by default shards.
        shard_mb: size of a shard in MB.

    Examples:
        python -m src.cli shard --config configs/folder.yaml --output=SHARDS
    """
    folder = output or Path("shards")
    require(shard_mb * 1e6 >= SMALLEST, f"--shard_mb must be at least {SMALLEST / 1e6}, got {shard_mb}")
    complete = (folder / MANIFEST).exists()
    require(not complete, f"{folder} already has shards: choose another folder with --output")
    x = build(parse(options), "shard")
    data = x.data
    if not isinstance(data, DataModule) or not data.holds_images:
        raise UserError(f"shard needs images of a src.data.DataModule, got {type(data).__name__}")
    if isinstance(data, ImageFolder):
        data.in_memory = False  # decoded once, to find damaged files
    sets = {split: found for split in ("train", "val", "test") if (found := image_set(data, split)) is not None}
    shape = [*data.load(train=True)[0][torch.tensor([0])].shape[1:]]
    facts = {"classes": data.class_names, "shape": shape, "scale": data.scale and [*data.scale]}
    count = write(folder, sets, facts, int(shard_mb * 1e6))
    rows = [("written to", f"{folder}, {count} shards")]
    rows += [(split, f"{len(samples.names):,} images") for split, samples in sets.items()]
    print_rows([*rows, ("train", f"--data=src.data.ShardFolder --data.root={folder}")])
    return x


def image_set(data: DataModule, split: str) -> ImageSet | None:
    """Return a set of a data module; None if it has no validation set of its own."""
    loaded = data.load_val() if split == "val" else data.load(train=split == "train")
    if loaded is None:
        return None
    images, targets = loaded
    names = data.sample_names(split, len(images))
    has_masks = targets is not None and targets.ndim > 2  # of the size of the decoded images
    if not has_masks and data.files.get(split) and (data.root / names[0]).is_file():
        return ImageSet(names, targets, data.root)
    first = images[torch.tensor([0])]
    valid = first.dtype == torch.uint8 and first.shape[1] in (1, 3)
    require(valid, f"shard needs uint8 images of 1 or 3 channels, got {first.dtype} {tuple(first.shape[1:])}")
    return ImageSet([f"{Path(name).with_suffix('')}.png" for name in names], targets, None, images)
