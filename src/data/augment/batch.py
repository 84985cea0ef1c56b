"""What every augmentation of a batch does: draw once per sample, keep the type of the pixels, refuse odd ranges."""

from math import inf

import torch
from torch import Tensor

from src import UserError


def uniform(images: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Return a number drawn from [low, high) for each of the images, (N,), on their device."""
    return torch.empty(len(images), device=images.device).uniform_(low, high)


def restored(pixels: Tensor, images: Tensor) -> Tensor:
    """Return computed pixels, in [0, 255], in the type of the images they were computed from."""
    pixels = pixels.clamp(0, 255)
    return pixels.to(images.dtype) if images.is_floating_point() else pixels.round().to(images.dtype)


def check_range(name: str, bounds: tuple[float, float], most: float = inf) -> None:
    """Raise UserError unless 0 < lower bound <= upper bound <= ``most``."""
    if not 0 < bounds[0] <= bounds[1] <= most:
        raise UserError(f"{name} must be two increasing numbers in (0, {most}], got {bounds}")
