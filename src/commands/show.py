"""show: training images as the net sees them, as a picture: a row for each, first as it is, then augmented."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from src import UserError
from src.data import DataModule
from src.report import print_rows, save
from src.settings import Picture

ROWS, COLUMNS = 8, 8


class Show(Picture):
    """Draws instead of training."""

    def fit(self, **kwargs: Any) -> None:
        data = kwargs.get("datamodule")
        if not isinstance(data, DataModule):
            raise UserError(f"show needs data of a class derived from src.data.DataModule, got {type(data).__name__}")
        data.prepare_data()
        data.setup("fit")
        loader, samples = data.loader("train", shuffle=True), data.parts["train"]
        prepare: Any = loader.prepare
        positions = next(iter(loader.sampler))[:ROWS]
        index, pixels, targets = samples[positions]
        figure = Figure(figsize=(COLUMNS + 2, len(pixels) + 0.5), layout="constrained")
        grid = figure.subplots(len(pixels), COLUMNS + 1, squeeze=False)
        draw(grid[:, 0], pixels, targets, data.class_names)
        for epoch in range(COLUMNS):
            torch.manual_seed(epoch)
            images, mixed = prepare(pixels, targets, index, epoch)
            shown = images * prepare.normalize.std + prepare.normalize.mean
            draw(grid[:, epoch + 1], shown, mixed if mixed.ndim == 2 else None, data.class_names)
        grid[0, 0].set_title("as it is", fontsize="small")
        grid[0, 1].set_title("in epoch 0", fontsize="small")
        for epoch in range(1, COLUMNS):
            grid[0, epoch + 1].set_title(str(epoch), fontsize="small")
        file = self.options.output or Path("show.png")
        save(figure, file)
        print_rows([("images", f"{len(pixels)}, each in {COLUMNS} epochs"), ("written to", str(file))])


def draw(cells: Any, images: Tensor, targets: Tensor | None, names: list[str]) -> None:
    """Draw images (N, C, H, W) in [0, 255] into cells (N,), with their classes or shares of classes (N, K) below."""
    for i, (cell, image) in enumerate(zip(cells, images.cpu(), strict=True)):
        rgb = image.expand(3, -1, -1).permute(1, 2, 0) if len(image) == 1 else image.permute(1, 2, 0)
        cell.imshow((rgb.float().clamp(0, 255) / 255).numpy())
        cell.set(xticks=[], yticks=[], frame_on=False)
        if targets is not None:
            shares = targets[i].float() if targets.ndim == 2 else torch.eye(len(names))[targets[i]]
            parts = [f"{names[k]} {share:.0%}" for k, share in enumerate(shares.tolist()) if share >= 0.005]
            cell.set_xlabel("\n".join(part.removesuffix(" 100%") for part in parts), fontsize="x-small")
