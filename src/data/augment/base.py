"""Shared functions of the batch augmentations: draws, casts and checks."""

from math import inf

import torch
from torch import Tensor

from src import require


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
