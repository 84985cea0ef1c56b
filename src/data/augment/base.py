"""Shared code of the batch augmentations: the base of those that move pixels, draws, casts and checks."""

from collections.abc import Callable
from math import inf
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


def uniform(images: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Draw one number from [low, high) per image, (N,), on the device of the images."""
    return torch.empty(len(images), device=images.device).uniform_(low, high)


def cast_like(pixels: Tensor, images: Tensor, clip: bool = True) -> Tensor:
    """Clip computed pixels to [0, 255] and cast them to the dtype of the images, rounded for integers."""
    pixels = pixels.clamp(0, 255) if clip else pixels
    return pixels.to(images.dtype) if images.is_floating_point() else pixels.round().to(images.dtype)


def check_range(name: str, bounds: tuple[float, float], max_value: float = inf) -> None:
    ordered = 0 < bounds[0] <= bounds[1] <= max_value
    require(ordered, f"{name} must be two numbers 0 < low <= high <= {max_value}, got {bounds}")
