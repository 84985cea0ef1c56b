"""Rectangles of pixels, one per sample, filled with the mean color of the batch, about 0 after normalization."""

from math import log

import torch
from torch import Tensor, nn

from src import require
from src.data.augment.base import cast_like, check_range, uniform


class RandomErasing(nn.Module):
    """Erase a rectangle anywhere in the image; arXiv:1708.04896, algorithm 1.

    Args:
        p: probability that an image loses a rectangle, in [0, 1].
        area: smallest and largest fraction of the image's area, in (0, 1].
        ratio: smallest and largest width / height.
    """

    moves_pixels = False

    def __init__(
        self, p: float = 0.5, area: tuple[float, float] = (0.02, 0.33), ratio: tuple[float, float] = (0.3, 3.3)
    ) -> None:
        super().__init__()
        require(0 <= p <= 1, f"p must be in [0, 1], got {p}")
        check_range("area", area, max_value=1)
        check_range("ratio", ratio)
        self.p, self.area, self.ratio = p, area, ratio

    def forward(self, images: Tensor) -> Tensor:
        top, left, height, width = draw_boxes(images, self.area, self.ratio)
        inside = box_mask(top, left, height, width, images.shape)
        erased = uniform(images) < self.p
        return fill_boxes(images, inside & erased[:, None, None, None])


class Cutout(nn.Module):
    """Erase a square centered on any pixel, clipped at the image's border; arXiv:1708.04552, section 3.

    Args:
        size: side of the square, in pixels, at least 1.
    """

    moves_pixels = False

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        require(size >= 1, f"size must be at least 1, got {size}")
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        top, left = (uniform(images, 0, length).floor() - self.size // 2 for length in images.shape[2:])
        side = torch.full_like(top, self.size)
        return fill_boxes(images, box_mask(top, left, side, side, images.shape))


def fill_boxes(images: Tensor, inside: Tensor) -> Tensor:
    """Set the pixels inside boxes, (N, 1, H, W), to each channel's mean over the batch."""
    mean = images.mean((0, 2, 3), keepdim=True, dtype=torch.float32)  # (1, C, 1, 1)
    return torch.where(inside, cast_like(mean, images), images)


def draw_boxes(images: Tensor, area: tuple[float, float], ratio: tuple[float, float]) -> tuple[Tensor, ...]:
    """Draw a rectangle inside each image: top, left, height and width, each (N,), in whole pixels.

    Area, relative to the image's, and ratio, width / height, are ranges. The logarithm of the ratio is uniform. A side
    longer than the image is clipped to it; torchvision redraws instead.
    """
    rows, columns = images.shape[2:]
    pixels, aspect = uniform(images, *area) * rows * columns, uniform(images, log(ratio[0]), log(ratio[1])).exp()
    height = (pixels / aspect).sqrt().round().clamp(1, rows)
    width = (pixels * aspect).sqrt().round().clamp(1, columns)
    top, left = uniform(images) * (rows - height + 1), uniform(images) * (columns - width + 1)
    return top.floor(), left.floor(), height, width


def box_mask(top: Tensor, left: Tensor, height: Tensor, width: Tensor, shape: torch.Size) -> Tensor:
    """Return True inside each box, (N, 1, H, W), for images of a shape (N, C, H, W); boxes may exceed the image."""
    rows, columns = torch.arange(shape[2], device=top.device), torch.arange(shape[3], device=top.device)
    inside_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])  # (N, H)
    inside_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])  # (N, W)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
