"""Erase rectangles: fill them with the mean color of the batch, about 0 after normalization."""

import torch
from torch import Tensor, nn

from src import require
from src.data.augment.batch import cast_like, check_range, uniform
from src.data.augment.boxes import box_mask, draw_boxes


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
        inside = box_mask(*draw_boxes(images, self.area, self.ratio), images.shape)
        erased = uniform(images) < self.p
        return fill_boxes(images, inside & erased[:, None, None, None])


class Cutout(nn.Module):
    """Erase a square centered on any pixel, cut off at the image's border; arXiv:1708.04552, section 3.

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
