"""TrivialAugment and RandAugment: each sample draws its operations.

Each pixel is taken from its nearest neighbour and is black outside of the image, torchvision's defaults: interpolation
would blur small images.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torchvision.transforms.v2 import functional

from src.data.augment.batch import restored, uniform
from src.data.augment.color import blend, brighten, contrast, saturate
from src.data.augment.geometry import affine, unchanged, warp

LEVELS = 30  # magnitudes are multiples of 1/30 of the largest one


class TrivialAugment(nn.Module):
    """Apply one operation of any strength to each image; arXiv:2103.10158, its wide space.

    Made for uint8; the values of float images are rounded.
    """

    def forward(self, images: Tensor) -> Tensor:
        strength = torch.randint(LEVELS + 1, (len(images),), device=images.device) / LEVELS
        return operate(images, strength, largest(0.99, (32.0, 32.0), 135.0, 0.99, 6.0))


class RandAugment(nn.Module):
    """Apply a few operations of one strength to each image; arXiv:1909.13719.

    Made for uint8; the values of float images are rounded.

    Args:
        num_ops: operations per image, at least 1.
        magnitude: strength of each, in [0, 30].
    """

    def __init__(self, num_ops: int = 2, magnitude: int = 9) -> None:
        super().__init__()
        if num_ops < 1:
            raise ValueError(f"num_ops must be at least 1, got {num_ops}")
        if not 0 <= magnitude <= LEVELS:
            raise ValueError(f"magnitude must be in [0, {LEVELS}], got {magnitude}")
        self.num_ops, self.magnitude = num_ops, magnitude

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = images.shape[2:]
        strength = torch.full((len(images),), self.magnitude / LEVELS, device=images.device)
        for _ in range(self.num_ops):
            images = operate(images, strength, largest(0.3, (150 / 331 * columns, 150 / 331 * rows), 30.0, 0.9, 4.0))
        return images


def largest(shear: float, shift: tuple[float, float], angle: float, color: float, bits: float) -> list[float]:
    """Return the largest magnitude of each of the OPERATIONS."""
    return [0.0, shear, shear, *shift, angle, color, color, color, color, bits, 1.0, 0.0, 0.0]


def operate(images: Tensor, strength: Tensor, reach: list[float]) -> Tensor:
    """Apply one of the OPERATIONS to each image, each as often as it is drawn, to all images that drew it at once.

    How many drew it is drawn on the CPU, and which did on the images' device, so that neither waits for the other.

    Args:
        images: (N, C, H, W).
        strength: share of the largest magnitude, (N,), in [0, 1]; its sign is drawn.
        reach: largest magnitude of each operation.
    """
    counts = torch.randint(len(OPERATIONS), (len(images),)).bincount(minlength=len(OPERATIONS)).tolist()
    order = torch.randperm(len(images), device=images.device)
    signed = torch.where(uniform(images) < 0.5, -strength, strength)
    pixels = images if images.dtype == torch.uint8 else images.round().clamp(0, 255).byte()
    result = torch.empty_like(pixels)
    for operation, most, drawn in zip(OPERATIONS.values(), reach, order.split(counts), strict=True):
        if len(drawn):
            result[drawn] = operation(pixels[drawn], signed[drawn] * most)
    return result.to(images.dtype)


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    matrix = unchanged(images)
    matrix[:, 0, 1], matrix[:, 0, 2] = slope, slope * images.shape[2] / 2  # the uppermost row stays where it is
    return warp(images, matrix, "nearest", "zeros")


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    matrix = unchanged(images)
    matrix[:, 0, 2] = -pixels.trunc()
    return warp(images, matrix, "nearest", "zeros")


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    still = torch.zeros_like(degrees)
    return warp(images, affine(-degrees, torch.stack([still, still], 1), still + 1, still), "nearest", "zeros")


def sharpen(pixels: Tensor, factor: Tensor) -> Tensor:
    smooth = pixels.clone()  # its border stays
    smooth[..., 1:-1, 1:-1] = (9 * avg_pool2d(pixels, 3, stride=1) + 4 * pixels[..., 1:-1, 1:-1]) / 13
    return blend(pixels, smooth, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Set the lowest bits to 0."""
    removed = bits.abs().round().byte()[:, None, None, None]
    return images >> removed << removed


def solarize(images: Tensor, share: Tensor) -> Tensor:
    """Invert the brightest pixels: those in the uppermost share of all values."""
    return torch.where(images >= 255 * (1 - share.abs())[:, None, None, None], 255 - images, images)


def of_floats(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the operation that changes by a factor of 1 + magnitude."""
    return lambda images, magnitude: restored(change(images.float(), 1 + magnitude), images)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Identity": lambda images, _: images,
    "ShearX": shear_x,
    "ShearY": lambda images, slope: shear_x(images.mT, slope).mT,
    "TranslateX": translate_x,
    "TranslateY": lambda images, pixels: translate_x(images.mT, pixels).mT,
    "Rotate": rotate,
    "Brightness": of_floats(brighten),
    "Color": of_floats(saturate),
    "Contrast": of_floats(contrast),
    "Sharpness": of_floats(sharpen),
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": lambda images, _: functional.autocontrast(images),
    "Equalize": lambda images, _: functional.equalize(images),
}
