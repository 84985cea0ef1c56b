"""show: draw augmented training images, or the first batch of other data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from matplotlib.figure import Figure
from torch import Tensor

from src import require
from src.config.arguments import Options
from src.config.build import Experiment, build
from src.config.parser import parse
from src.data import DataModule
from src.runs.predictions import named_entries
from src.runs.summary import print_rows, save_figure

ROWS, COLUMNS = 8, 8


def run(options: Options, *, output: Path | None = None) -> Experiment:
    """Draw training images, one row each: unchanged, then augmented.

    Of a data module of another project, draw the first batch.

    Args:
        output: the picture; by default show.png.

    Examples:
        python -m src.cli show --config configs/digits.yaml
    """
    x = build(parse(options), "show")
    data, file = x.data, output or Path("show.png")
    if not isinstance(data, DataModule) or not data.holds_images:
        show_batch(next(batches(owner_of_loaders(x, "show").train_dataloader())), file)
        return x
    data.prepare_data()
    data.setup("fit")
    columns = training_images(data, ROWS, COLUMNS)
    count = len(columns[0][1])
    figure = Figure(figsize=(COLUMNS + 2, count + 0.5), layout="constrained")
    grid = figure.subplots(count, COLUMNS + 1, squeeze=False)
    for cells, (title, images, targets) in zip(grid.T, columns, strict=True):
        draw(cells, title, images, targets, data.class_names)
    save_figure(figure, file)
    print_rows([("images", f"{count}, each in {COLUMNS} epochs"), ("written to", str(file))])
    return x


def training_images(data: DataModule, rows: int, epochs: int) -> list[tuple[str, Tensor, Tensor | None]]:
    """Return titles, images (N, C, H, W) in [0, 255] and labels: unchanged, then as augmented in each epoch."""
    loader, samples = data.loader("train", shuffle=True), data.splits["train"]
    transform: Any = loader.transform
    index, pixels, *known = samples[next(iter(loader.sampler))[:rows]]
    targets = known[0] if known else None
    found = [("unchanged", pixels, targets)]
    for epoch in range(epochs):
        torch.manual_seed(epoch)
        images, *mixed = transform(pixels, targets, index, epoch)
        shown = images * transform.normalize.std + transform.normalize.mean
        found.append((str(epoch) if epoch else "epoch 0", shown, mixed[0] if data.mix is not None else None))
    return found


def owner_of_loaders(x: Experiment, command: str) -> Any:
    """Return the data module or LightningModule of another project that has loaders, ready to call them."""
    owner: Any = next((each for each in (x.data, x.task) if each and is_overridden("train_dataloader", each)), None)
    require(owner is not None, f"{command} needs training data: neither data nor model has a train_dataloader")
    owner.trainer = x.trainer
    owner.prepare_data()
    owner.setup("fit")
    return owner


def batches(loader: Any) -> Iterator[Any]:
    """Yield the batches of what a ``*_dataloader`` method returns: one loader or a collection of them."""
    for each in CombinedLoader(loader) if isinstance(loader, list | tuple | dict) else loader:
        yield each[0] if type(each) is tuple and len(each) == 3 and isinstance(each[1], int) else each


def show_batch(batch: Any, file: Path) -> None:
    """Print what a batch holds, and draw its first images (N, C, H, W)."""
    found = dict(leaves(batch))
    print_rows([(name or "batch", describe(value)) for name, value in found.items()])
    images = [value for value in found.values() if isinstance(value, Tensor) and value.ndim == 4]
    images = [value[:, :3] if value.shape[1] > 3 else value for value in images if value.shape[1] in (1, 3, 4)]
    if not images:
        print_rows([("note", "the batch has no images (N, C, H, W) to draw")])
        return
    count = min(ROWS, len(images[0]))
    classes = [v for v in found.values() if isinstance(v, Tensor) and v.shape == images[0].shape[:1]]
    figure = Figure(figsize=(len(images) + 2, count + 0.5), layout="constrained")
    for column, values in zip(figure.subplots(count, len(images), squeeze=False).T, images, strict=True):
        low, high = values.min(), values.max()  # often normalized
        pixels = 255 * (values[:count].float() - low) / (high - low).clamp(1e-9)
        draw(column, "first batch", pixels, classes[0] if classes else None, None)
    save_figure(figure, file)
    print_rows([("written to", str(file))])


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and value of everything in a batch of nested dictionaries, lists and tuples."""
    entries = named_entries(value)
    if entries is None and isinstance(value, list | tuple) and not isinstance(value[0], str | int | float):
        entries = {str(i): each for i, each in enumerate(value)}
    for key, each in (entries or {}).items():
        yield from leaves(each, f"{name}.{key}".lstrip("."))
    if entries is None:
        yield name, value


def describe(value: Any) -> str:
    """Return shape, type and range of a tensor, or the start of anything else."""
    if not isinstance(value, Tensor) or not value.numel():
        return f"{type(value).__name__} {str(value)[:50]}"
    low, high = value.min().item(), value.max().item()
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}, from {low:.4g} to {high:.4g}"


def draw(cells: Any, title: str, images: Tensor, targets: Tensor | None, names: list[str] | None) -> None:
    """Draw images (N, C, H, W) in [0, 255] into a column of cells (N,), with their targets as captions."""
    cells[0].set_title(title, fontsize="small")
    for i, (cell, image) in enumerate(zip(cells, images.cpu(), strict=True)):
        rgb = image.expand(3, -1, -1).permute(1, 2, 0) if len(image) == 1 else image.permute(1, 2, 0)
        cell.imshow((rgb.float().clamp(0, 255) / 255).numpy())
        cell.set(xticks=[], yticks=[], frame_on=False)
        if targets is not None:
            cell.set_xlabel(caption(targets[i], names), fontsize="x-small")


def caption(target: Tensor, names: list[str] | None) -> str:
    """Return the class of a target, its mixed classes with their weights, its numbers, or nothing for a mask."""
    if target.ndim > 1:
        return ""
    if names is None:
        return " ".join(f"{number:.3g}" for number in target.view(-1).tolist())
    if target.ndim == 0:
        return names[int(target)]
    weights = [(names[k], weight) for k, weight in enumerate(target.tolist()) if weight >= 0.005]
    return "\n".join(name if f"{weight:.0%}" == "100%" else f"{name} {weight:.0%}" for name, weight in weights)
