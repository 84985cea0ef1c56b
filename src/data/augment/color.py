"""Brightness, contrast, saturation, hue and noise."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import rgb_to_grayscale

from src import require
from src.data.augment.base import cast_like, uniform


class ColorJitter(nn.Module):
    """Change brightness, contrast, saturation and hue, in this order; grayscale images keep saturation and hue.

    The first three multiply by a factor drawn from [max(0, 1 - value), 1 + value]; a factor of 1 changes nothing.

    Args:
        brightness: largest change of the factor, at least 0.
        contrast: largest change of the factor, at least 0.
        saturation: largest change of the factor, at least 0.
        hue: largest shift in either direction, in turns of the color wheel, in [0, 0.5].
    """

    moves_pixels = False

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        super().__init__()
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            require(value >= 0, f"{name} must be at least 0, got {value}")
        require(0 <= hue <= 0.5, f"hue must be in [0, 0.5], got {hue}")
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float()
        changes = (self.brightness, self.contrast, self.saturation)
        for reference, change in zip((torch.zeros_like, mean_gray, rgb_to_grayscale), changes, strict=True):
            if change > 0:
                pixels = blend(reference, pixels, uniform(images, max(0.0, 1 - change), 1 + change))
        if self.hue > 0:
            pixels = adjust_hue(pixels, uniform(images, -self.hue, self.hue))
        return cast_like(pixels, images)


class GaussianNoise(nn.Module):
    """Add Gaussian noise to every pixel and clip to [0, 255]; the result is float32.

    Args:
        std: standard deviation of the noise, as a fraction of 255, at least 0.
    """

    moves_pixels = False

    def __init__(self, std: float) -> None:
        super().__init__()
        require(std >= 0, f"std must be at least 0, got {std}")
        self.std = std

    def forward(self, images: Tensor) -> Tensor:
        return (images + torch.randn(images.shape, device=images.device) * (255 * self.std)).clamp(0, 255)


def blend(reference: Callable[[Tensor], Tensor], pixels: Tensor, factor: Tensor) -> Tensor:
    """Multiply the difference of pixels from their reference by a factor per sample, (N,), and clip to [0, 255]."""
    return torch.lerp(reference(pixels), pixels, factor[:, None, None, None]).clamp(0, 255)


def mean_gray(pixels: Tensor) -> Tensor:
    return rgb_to_grayscale(pixels).mean((1, 2, 3), keepdim=True)


def adjust_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Rotate the color wheel, keeping value and chroma; en.wikipedia.org/wiki/HSL_and_HSV, "HSV to RGB alternative"."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.unbind(1)
    value, chroma = pixels.amax(1), pixels.amax(1) - pixels.amin(1)
    sector = torch.where(value == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma)
    sector = torch.where(value == red, (green - blue) / chroma, sector)
    hue = torch.where(chroma == 0, 0, sector) + 6 * turns[:, None, None]  # (N, H, W), in sixths of a turn
    offset = torch.arange(5, 0, -2, device=pixels.device)[:, None, None]  # for red, green and blue
    position = (hue[:, None] + offset) % 6  # (N, 3, H, W)
    return value[:, None] - chroma[:, None] * torch.minimum(position, 4 - position).clamp(0, 1)
