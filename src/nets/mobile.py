"""MobileCNN: depthwise-separable convolutions, and a block that shares its weights."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from src import require


class MobileCNN(nn.Sequential):
    """Depthwise-separable convolutions, as in arXiv:1704.04861, for small images (N, C, H, W).

    A 3x3 convolution of each channel alone and a 1x1 convolution across channels take the place of a 3x3 convolution,
    with about a ninth of its weights and multiplications.

    Args:
        in_channels: channels C of the input.
        width: channels after the first convolution; doubled with each of the two halvings of the resolution.
        repeats: further applications of the last block with the same weights, at least 0.
        activation: builds the activation after each convolution; by default torch.nn.ReLU.
    """

    def __init__(
        self,
        num_outputs: int,
        in_channels: int = 1,
        width: int = 32,
        repeats: int = 0,
        activation: Callable[[], nn.Module] | None = None,
    ) -> None:
        require(repeats >= 0, f"repeats must be at least 0, got {repeats}")
        act = activation or nn.ReLU
        super().__init__(
            Conv2dNormActivation(in_channels, width, activation_layer=act, inplace=None),
            separable(width, 2 * width, act),
            nn.MaxPool2d(2),
            separable(2 * width, 4 * width, act),
            nn.MaxPool2d(2),
            Repeated(separable(4 * width, 4 * width, act), 1 + repeats),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, num_outputs),
        )


def separable(in_channels: int, out_channels: int, act: Callable[[], nn.Module]) -> nn.Sequential:
    """Return a 3x3 convolution per channel and a 1x1 convolution across them, each with batch norm and activation."""
    after: dict[str, Any] = {"activation_layer": act, "inplace": None}
    depthwise = Conv2dNormActivation(in_channels, in_channels, groups=in_channels, **after)
    return nn.Sequential(depthwise, Conv2dNormActivation(in_channels, out_channels, kernel_size=1, **after))


class Repeated(nn.Module):
    """Apply a block several times with the same weights; each time its output is added to its input."""

    def __init__(self, block: nn.Module, times: int) -> None:
        super().__init__()
        self.block, self.times = block, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x + self.block(x)
        return x
