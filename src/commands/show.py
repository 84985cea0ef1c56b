"""show: draw augmented training images."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from src import UserError
from src.config.arguments import Options
from src.config.build import Experiment, build
from src.config.parser import parse
from src.data import DataModule
from src.runs.summary import print_rows, save_figure

ROWS, COLUMNS = 8, 8


def run(options: Options, *, output: Path | None = None) -> Experiment:
    """Draw training images, one row each: unchanged, then augmented.

    Args:
        output: the picture; by default show.png.

    Examples:
        python -m src.cli show --config configs/digits.yaml
    """
    x = build(parse(options), "show")
    data, file = x.data, output or Path("show.png")
    if not isinstance(data, DataModule):
        raise UserError(f"show needs a data module derived from src.data.DataModule, got {type(data).__name__}")
    data.prepare_data()
    data.setup("fit")
    loader, samples = data.loader("train", shuffle=True), data.splits["train"]
    transform: Any = loader.transform
    index, pixels, targets = samples[next(iter(loader.sampler))[:ROWS]]
    figure = Figure(figsize=(COLUMNS + 2, len(pixels) + 0.5), layout="constrained")
    grid = figure.subplots(len(pixels), COLUMNS + 1, squeeze=False)
    draw(grid[:, 0], "unchanged", pixels, targets, data.class_names)
    for epoch, column in enumerate(grid.T[1:]):
        torch.manual_seed(epoch)
        images, mixed = transform(pixels, targets, index, epoch)
        shown = images * transform.normalize.std + transform.normalize.mean
        labels = mixed if data.mix is not None else None
        draw(column, str(epoch) if epoch else "epoch 0", shown, labels, data.class_names)
    save_figure(figure, file)
    print_rows([("images", f"{len(pixels)}, each in {COLUMNS} epochs"), ("written to", str(file))])
    return x


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
