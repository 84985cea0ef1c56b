"""Sheets of samples, feature maps and filters: functions of arrays that return a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.analysis.training.pictures import Array, figure

RIGHT, WRONG = "#17713a", "#b3261e"


@dataclass
class Sample:
    """A picture (H, W) or (H, W, 3) with a caption, which is green or red if it is right or wrong."""

    pixels: Array
    caption: str = ""
    right: bool | None = None
    mask: Array | None = None  # classes (H, W), drawn over the picture; 0 is not


def draw_samples(rows: Mapping[str, Sequence[Sample]]) -> Any:
    """Draw rows of pictures with captions; each row has a title."""
    columns = max(map(len, rows.values()))
    lines = 1 + max((each.caption.count("\n") for row in rows.values() for each in row), default=0)
    drawn = figure(0.6 + 1.55 * columns, 0.3 + (1.5 + 0.16 * lines) * len(rows))
    for cells, (title, row) in zip(drawn.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
        for cell, each in zip(cells, row, strict=False):
            cell.imshow(each.pixels, cmap="gray" if each.pixels.ndim == 2 else None, interpolation="nearest")
            if each.mask is not None:
                shown = np.ma.masked_where(each.mask == 0, each.mask % 20)
                cell.imshow(shown, cmap="tab20", alpha=0.6, vmin=0, vmax=19, interpolation="nearest")
            color = "black" if each.right is None else RIGHT if each.right else WRONG
            cell.set_title(each.caption, fontsize="small", color=color)
            cell.set(xticks=[], yticks=[])
        for cell in cells[len(row) :]:
            cell.set_axis_off()
        cells[0].set_ylabel(title)
    return drawn


def draw_maps(maps: Mapping[str, Array], columns: int = 10) -> Any:
    """Draw the first channels of feature maps (C, H, W), a row for each layer, each map on its own scale."""
    drawn = figure(1.1 * columns, 0.2 + 1.3 * len(maps))
    for cells, (name, channels) in zip(drawn.subplots(len(maps), columns, squeeze=False), maps.items(), strict=True):
        for cell in cells:
            cell.set_axis_off()
        for cell, channel in zip(cells, channels, strict=False):
            cell.imshow(channel, cmap="viridis", interpolation="nearest")
        title = f"{name}: {len(channels)} maps of {channels.shape[1]} x {channels.shape[2]}"
        cells[0].set_title(title, loc="left", fontsize="small")
    return drawn


def draw_filters(filters: Array) -> Any:
    """Draw the first 64 filters (M, C, H, W) with C = 1 or 3; gray, or middle gray of a color, is 0."""
    shown = filters[:64]
    columns = min(len(shown), 8 if len(shown) < 33 else 16)
    rows = -(-len(shown) // columns)
    drawn = figure(0.8 * columns, 0.4 + 0.8 * rows)
    largest = max(float(np.abs(shown).max()), 1e-30)
    cells = drawn.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.set_axis_off()
    for cell, each in zip(cells, shown, strict=False):
        pixels = (each / largest / 2 + 0.5).transpose(1, 2, 0)
        cell.imshow(pixels[..., 0] if len(each) == 1 else pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    size = " x ".join(map(str, filters.shape[2:]))
    drawn.suptitle(f"{len(shown)} of {len(filters)} filters of the first layer, {size}", fontsize="medium")
    return drawn
