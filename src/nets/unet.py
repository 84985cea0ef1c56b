"""UNet: a class for each pixel."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d
from torchvision.ops import Conv2dNormActivation

from src import require


class UNet(nn.Module):
    """Encoder and decoder with skip connections, for images of any size; arXiv:1505.04597, with padding and batch norm.

    Args:
        in_channels: channels C of the input.
        width: channels at full resolution; each level has twice as many as the one above it.
        depth: number of times that the resolution is halved, at least 1.
    """

    def __init__(self, num_outputs: int, in_channels: int = 3, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        require(depth >= 1, f"depth must be at least 1, got {depth}")
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(two_convs(*pair) for pair in pairwise([in_channels, *widths]))
        self.up = nn.ModuleList(two_convs(above + below, above) for below, above in pairwise(widths[::-1]))
        self.head = nn.Conv2d(width, num_outputs, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, K, H, W)."""
        levels = [self.down[0](images)]
        for block in self.down[1:]:
            levels.append(block(max_pool2d(levels[-1], 2, ceil_mode=True)))
        x = levels.pop()
        for block, skip in zip(self.up, reversed(levels), strict=True):
            x = block(torch.cat([interpolate(x, skip.shape[2:]), skip], 1))
        return self.head(x)


def two_convs(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        Conv2dNormActivation(in_channels, out_channels), Conv2dNormActivation(out_channels, out_channels)
    )
