"""Rectangles of pixels, one per sample."""

from math import log

import torch
from torch import Tensor

from src.data.augment.batch import uniform


def box_mask(top: Tensor, left: Tensor, height: Tensor, width: Tensor, shape: torch.Size) -> Tensor:
    """Return True inside each sample's rectangle, (N, 1, H, W); parts outside the image are cut off.

    Args:
        top: first row, (N,), in pixels; may be negative.
        left: first column, (N,), in pixels; may be negative.
        height: number of rows, (N,).
        width: number of columns, (N,).
        shape: shape of the images, (N, C, H, W).
    """
    rows, columns = torch.arange(shape[2], device=top.device), torch.arange(shape[3], device=top.device)
    inside_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])  # (N, H)
    inside_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])  # (N, W)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]


def draw_boxes(
    images: Tensor, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a rectangle inside each image: top, left, height and width, each (N,), in whole pixels.

    A side longer than the image is cut to it; torchvision draws again instead.

    Args:
        images: (N, C, H, W).
        area: smallest and largest fraction of the image's area.
        ratio: smallest and largest width / height; its logarithm is drawn uniformly.
    """
    rows, columns = images.shape[2:]
    pixels, aspect = uniform(images, *area) * rows * columns, uniform(images, log(ratio[0]), log(ratio[1])).exp()
    height = (pixels / aspect).sqrt().round().clamp(1, rows)
    width = (pixels * aspect).sqrt().round().clamp(1, columns)
    top, left = uniform(images) * (rows - height + 1), uniform(images) * (columns - width + 1)
    return top.floor(), left.floor(), height, width
