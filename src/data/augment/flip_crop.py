"""Mirrored and shifted images, of any type of pixel."""

import torch
from torch import Tensor, nn


class RandomFlip(nn.Module):
    """Mirror left and right.

    Args:
        p: probability of each image to be mirrored, in [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        self.p = p

    def forward(self, images: Tensor) -> Tensor:
        return mirror(images, torch.rand(len(images), device=images.device) < self.p)


class AlternatingFlip(nn.Module):
    """Mirror left and right in every other epoch: half of the samples in the even ones, the other half in the odd ones.

    Two epochs in a row show each image both ways, which chance does for half of the images only; arXiv:2404.00498,
    section 3.6.
    """

    by_position = True  # called with the indices of the samples in the data set, (N,), and the epoch too

    def forward(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        return mirror(images, (scrambled(index.to(images.device)) + epoch) % 2 == 1)


class RandomCrop(nn.Module):
    """Pad by reflection and cut out an image of the original size: a shift by up to ``padding`` pixels.

    Args:
        padding: most pixels of shift, at least 1.
    """

    def __init__(self, padding: int = 4) -> None:
        super().__init__()
        if padding < 1:
            raise ValueError(f"padding must be at least 1, got {padding}")
        self.padding = padding

    def forward(self, images: Tensor) -> Tensor:
        n, c, h, w = images.shape
        rows, columns = self.source(n, h, images.device), self.source(n, w, images.device)
        pixels = (rows[:, :, None] * w + columns[:, None, :]).view(n, 1, h * w)  # (N, 1, H * W)
        return images.reshape(n, c, h * w).gather(2, pixels.expand(n, c, h * w)).view(n, c, h, w)

    @torch.compiler.disable  # as mirrored_columns below
    def source(self, n: int, size: int, device: torch.device) -> Tensor:
        """Return for each image and row (or column) the one it is taken from, (N, size)."""
        shift = torch.randint(-self.padding, self.padding + 1, (n, 1), device=device)
        last = size - 1
        place = (torch.arange(size, device=device) + shift).abs() % max(1, 2 * last)
        return last - (last - place).abs()  # reflected at both ends, as often as it takes


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Return the images (N, C, H, W), those mirrored left and right for which ``mirrored`` (N,) is true."""
    columns = mirrored_columns(mirrored, images.shape[3])[:, None, None]
    return images.gather(3, columns.expand(images.shape))


@torch.compiler.disable  # which would work them out for each pixel anew
def mirrored_columns(mirrored: Tensor, width: int) -> Tensor:
    """Return the column that each column is taken from, (N, width)."""
    places = torch.arange(width, device=mirrored.device)
    return torch.where(mirrored[:, None], places.flip(0), places)


def scrambled(index: Tensor) -> Tensor:
    """Return 31 bits that are as good as drawn for each index, the same under any seed; Murmur3's finalizer."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        index = ((index ^ (index >> shift)) * factor) & 0xFFFFFFFF
    return index >> 1
