"""Brightness, contrast, saturation, hue and noise."""

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import rgb_to_grayscale

from src.data.augment.batch import restored, uniform


class ColorJitter(nn.Module):
    """Change brightness, contrast, saturation and hue, in this order; saturation and hue of colour images only.

    The first three are factors from [max(0, 1 - value), 1 + value], 1 leaving the image as it is.

    Args:
        brightness: largest change, at least 0.
        contrast: largest change, at least 0.
        saturation: largest change, at least 0.
        hue: largest turn to either side, in turns of the colour wheel, in [0, 0.5].
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        super().__init__()
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue must be in [0, 0.5], got {hue}")
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float()
        factors = ((brighten, self.brightness), (contrast, self.contrast), (saturate, self.saturation))
        for change, most in factors:
            if most > 0:
                pixels = change(pixels, uniform(images, max(0.0, 1 - most), 1 + most))
        if self.hue > 0:
            pixels = turn_hue(pixels, uniform(images, -self.hue, self.hue))
        return restored(pixels, images)


class GaussianNoise(nn.Module):
    """Add noise to every pixel, clipped to [0, 255]; the images become float32.

    Args:
        std: its standard deviation, as a share of 255, at least 0.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        if std < 0:
            raise ValueError(f"std must be at least 0, got {std}")
        self.std = std

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(images.shape, device=images.device)
        return (images + noise * (255 * self.std)).clamp(0, 255)


def blend(pixels: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """Return others + factor * (pixels - others), float32 in [0, 255], with one factor for each sample, (N,)."""
    return torch.lerp(others, pixels, factor[:, None, None, None]).clamp(0, 255)


def brighten(pixels: Tensor, factor: Tensor) -> Tensor:
    return blend(pixels, torch.zeros_like(pixels), factor)


def contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    return blend(pixels, rgb_to_grayscale(pixels).mean((1, 2, 3), keepdim=True), factor)


def saturate(pixels: Tensor, factor: Tensor) -> Tensor:
    return blend(pixels, rgb_to_grayscale(pixels), factor)


def turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the colour wheel, keeping value and chroma; en.wikipedia.org/wiki/HSL_and_HSV, HSV to RGB alternative."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.unbind(1)
    value, chroma = pixels.amax(1), pixels.amax(1) - pixels.amin(1)
    sector = torch.where(value == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma)
    sector = torch.where(value == red, (green - blue) / chroma, sector)
    hue = torch.where(chroma == 0, 0, sector) + 6 * turns[:, None, None]  # (N, H, W), in sixths of a turn
    offset = torch.arange(5, 0, -2, device=pixels.device)[:, None, None]  # of red, green and blue
    place = (hue[:, None] + offset) % 6  # (N, 3, H, W)
    return value[:, None] - chroma[:, None] * torch.minimum(place, 4 - place).clamp(0, 1)
