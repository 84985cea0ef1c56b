"""Rectangles of images replaced by the mean colour of the batch, which normalisation makes about 0."""

import torch
from torch import Tensor, nn

from src.data.augment.batch import check_range, restored, uniform
from src.data.augment.boxes import box_mask, draw_boxes


class RandomErasing(nn.Module):
    """Erase a rectangle anywhere in the image; arXiv:1708.04896, algorithm 1.

    Args:
        p: probability of each image to lose a rectangle, in [0, 1].
        area: least and largest share of the image, in (0, 1].
        ratio: least and largest width / height.
    """

    def __init__(
        self, p: float = 0.5, area: tuple[float, float] = (0.02, 0.33), ratio: tuple[float, float] = (0.3, 3.3)
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        check_range("area", area, most=1)
        check_range("ratio", ratio)
        self.p, self.area, self.ratio = p, area, ratio

    def forward(self, images: Tensor) -> Tensor:
        mask = box_mask(*draw_boxes(images, self.area, self.ratio), images.shape)
        erased = uniform(images) < self.p
        return filled(images, mask & erased[:, None, None, None])


class Cutout(nn.Module):
    """Erase a square around any pixel, cut off at the border of the image; arXiv:1708.04552, section 3.

    Args:
        size: side of the square, in pixels, at least 1.
    """

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        top, left = (uniform(images, 0, size).floor() - self.size // 2 for size in images.shape[2:])
        side = torch.full_like(top, self.size)
        return filled(images, box_mask(top, left, side, side, images.shape))


def filled(images: Tensor, mask: Tensor) -> Tensor:
    """Return the images with each channel's mean over the batch where the mask is true."""
    mean = images.mean((0, 2, 3), keepdim=True, dtype=torch.float32)  # (1, C, 1, 1)
    return torch.where(mask, restored(mean, images), images)
