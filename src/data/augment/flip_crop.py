"""Augmentations that move pixels: their base, and flips and shifts, which copy pixels of any dtype."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from src import require


class MovePixels(nn.Module):
    """Base of augmentations that move the pixels of images and masks alike. Subclasses implement both methods below.

    ``make_params(images)`` draws random numbers. ``transform(images, params, mode)`` uses them; ``mode`` is "bilinear"
    for images, "nearest" for masks (N, 1, H, W). With ``by_position``, ``make_params`` also gets index and epoch.
    """

    make_params: Callable[..., Any]
    transform: Callable[..., Tensor]

    def forward(self, images: Tensor, *position: Any) -> Tensor:
        return self.transform(images, self.make_params(images, *position), "bilinear")

    def with_masks(self, images: Tensor, masks: Tensor, *position: Any) -> tuple[Tensor, Tensor]:
        """Move images (N, C, H, W) and masks (N, H, W) together."""
        params = self.make_params(images, *position)
        moved = self.transform(images, params, "bilinear")
        return moved, self.transform(masks[:, None], params, "nearest")[:, 0]


class Flip(MovePixels):
    """Base of flips left to right; ``make_params`` returns which images to flip, (N,)."""

    def transform(self, images: Tensor, flipped: Tensor, _mode: str) -> Tensor:
        columns = source_columns(flipped, images.shape[3])[:, None, None]
        return images.gather(3, columns.expand(images.shape))


@torch.compiler.disable  # compiled, the columns would be computed again for each pixel
def source_columns(flipped: Tensor, width: int) -> Tensor:
    """Return the source column of each column, (N, width)."""
    columns = torch.arange(width, device=flipped.device)
    return torch.where(flipped[:, None], columns.flip(0), columns)


class RandomFlip(Flip):
    """Flip images left to right.

    Args:
        p: probability that an image is flipped, in [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        require(0 <= p <= 1, f"p must be in [0, 1], got {p}")
        self.p = p

    def make_params(self, images: Tensor) -> Tensor:
        return torch.rand(len(images), device=images.device) < self.p


class AlternatingFlip(Flip):
    """Flip half of the samples left to right in even epochs, the other half in odd epochs.

    Two consecutive epochs show each image both ways; random flips do so for only half of the images. arXiv:2404.00498,
    section 3.6.
    """

    by_position = True

    def make_params(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        return ((hash_index(index) + epoch) % 2 == 1).to(images.device, non_blocking=True)


def hash_index(index: Tensor) -> Tensor:
    """Return 31 pseudorandom bits per index, the same under any seed: the finalizer of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        index = ((index ^ (index >> shift)) * factor) & 0xFFFFFFFF
    return index >> 1


class RandomCrop(MovePixels):
    """Pad and crop at the original size: a shift by up to ``padding`` pixels.

    Args:
        padding: largest shift, in pixels, at least 1.
        fill: value of the pixels outside, in [0, 255]; masks get class 0. By default, the border is reflected, which
            repeats what is close to it: for digits and shapes, the value of the background is better.
    """

    def __init__(self, padding: int = 4, fill: float | None = None) -> None:
        super().__init__()
        require(padding >= 1, f"padding must be at least 1, got {padding}")
        require(fill is None or 0 <= fill <= 255, f"fill must be in [0, 255], got {fill}")
        self.padding, self.fill = padding, fill

    def make_params(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the source row of each row, (N, H), and the source column of each column, (N, W); -1 is outside."""
        n, _, h, w = images.shape
        return self.draw_source(n, h, images.device), self.draw_source(n, w, images.device)

    @torch.compiler.disable  # like source_columns
    def draw_source(self, n: int, size: int, device: torch.device) -> Tensor:
        shift = torch.randint(-self.padding, self.padding + 1, (n, 1), device=device)
        last = size - 1
        position = torch.arange(size, device=device) + shift
        if self.fill is not None:
            return position.where((position >= 0) & (position <= last), -1)  # outside
        position = position.abs() % max(1, 2 * last)
        return last - (last - position).abs()  # reflected at both ends, as often as needed

    def transform(self, images: Tensor, source: tuple[Tensor, Tensor], mode: str) -> Tensor:
        n, c, h, w = images.shape
        rows, columns = source if self.fill is None else (each.clamp(min=0) for each in source)
        pixels = (rows[:, :, None] * w + columns[:, None, :]).view(n, 1, h * w)  # (N, 1, H * W)
        moved = images.reshape(n, c, h * w).gather(2, pixels.expand(n, c, h * w)).view(n, c, h, w)
        if self.fill is None:
            return moved
        outside = (source[0] < 0)[:, None, :, None] | (source[1] < 0)[:, None, None, :]
        fill = self.fill if images.is_floating_point() else round(self.fill)
        return moved.masked_fill(outside, 0 if mode == "nearest" else fill)
