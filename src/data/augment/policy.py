"""TrivialAugment and RandAugment, with operations drawn per sample, for uint8; masks are not supported.

Float images are rounded. Geometric operations use nearest neighbor and fill with black, as in torchvision:
interpolation would blur small images.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from src import require
from src.data.augment.base import cast_like, uniform
from src.data.augment.color import blend, mean_gray
from src.data.augment.geometry import affine_matrices, identity_matrices, warp

LEVELS = 30  # magnitudes are multiples of 1/30 of the largest one


class TrivialAugment(nn.Module):
    """Apply one random operation of random magnitude to each image; arXiv:2103.10158, wide space."""

    def forward(self, images: Tensor) -> Tensor:
        strength = torch.randint(LEVELS + 1, (len(images),), device=images.device) / LEVELS
        return apply_operations(images, strength, max_magnitudes(0.99, (32.0, 32.0), 135.0, 0.99, 6.0))


class RandAugment(nn.Module):
    """Apply several random operations of a fixed magnitude to each image; arXiv:1909.13719.

    Args:
        num_ops: operations per image, at least 1.
        magnitude: strength of every operation, in [0, 30].
    """

    def __init__(self, num_ops: int = 2, magnitude: int = 9) -> None:
        super().__init__()
        require(num_ops >= 1, f"num_ops must be at least 1, got {num_ops}")
        require(0 <= magnitude <= LEVELS, f"magnitude must be in [0, {LEVELS}], got {magnitude}")
        self.num_ops, self.magnitude = num_ops, magnitude

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = images.shape[2:]
        strength = torch.full((len(images),), self.magnitude / LEVELS, device=images.device)
        limits = max_magnitudes(0.3, (150 / 331 * columns, 150 / 331 * rows), 30.0, 0.9, 4.0)
        for _ in range(self.num_ops):
            images = apply_operations(images, strength, limits)
        return images


def max_magnitudes(shear: float, shift: tuple[float, float], angle: float, color: float, bits: float) -> list[float]:
    """Return the largest magnitude of each of the OPERATIONS."""
    return [0.0, shear, shear, *shift, angle, color, color, color, color, bits, 1.0, 0.0, 0.0]


def apply_operations(images: Tensor, strength: Tensor, limits: list[float]) -> Tensor:
    """Apply one random operation to each image; its magnitude is strength (N,) in [0, 1] times a limit, or minus that.

    The number of images per operation is drawn on the CPU, their order on the device, so neither waits for the other.
    """
    counts = torch.randint(len(OPERATIONS), (len(images),)).bincount(minlength=len(OPERATIONS)).tolist()
    order = torch.randperm(len(images), device=images.device)
    signed = torch.where(uniform(images) < 0.5, -strength, strength)
    pixels = images if images.dtype == torch.uint8 else images.round().clamp(0, 255).byte()
    result = torch.empty_like(pixels)
    for operation, limit, chosen in zip(OPERATIONS.values(), limits, order.split(counts), strict=True):
        if len(chosen):
            result[chosen] = operation(pixels[chosen], signed[chosen] * limit)
    return result.to(images.dtype)


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    matrix = identity_matrices(images)
    matrix[:, 0, 1], matrix[:, 0, 2] = slope, slope * images.shape[2] / 2  # the top row stays in place
    return warp(images, matrix, "nearest", "zeros")


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    matrix = identity_matrices(images)
    matrix[:, 0, 2] = -pixels.trunc()
    return warp(images, matrix, "nearest", "zeros")


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    zero = torch.zeros_like(degrees)
    matrix = affine_matrices(-degrees, torch.stack([zero, zero], 1), zero + 1, zero)
    return warp(images, matrix, "nearest", "zeros")


def smooth(pixels: Tensor) -> Tensor:
    result = pixels.clone()  # its border stays
    result[..., 1:-1, 1:-1] = (9 * nn.functional.avg_pool2d(pixels, 3, stride=1) + 4 * pixels[..., 1:-1, 1:-1]) / 13
    return result


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Set the lowest bits to 0."""
    removed = bits.abs().round().byte()[:, None, None, None]
    return images >> removed << removed


def solarize(images: Tensor, fraction: Tensor) -> Tensor:
    """Invert the pixels whose values lie in the top fraction of the range."""
    return torch.where(images >= 255 * (1 - fraction.abs())[:, None, None, None], 255 - images, images)


def adjust(reference: Callable[[Tensor], Tensor], images: Tensor, magnitude: Tensor) -> Tensor:
    return cast_like(blend(reference, images.float(), 1 + magnitude), images)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Identity": lambda images, _: images,
    "ShearX": shear_x,
    "ShearY": lambda images, slope: shear_x(images.mT, slope).mT,
    "TranslateX": translate_x,
    "TranslateY": lambda images, pixels: translate_x(images.mT, pixels).mT,
    "Rotate": rotate,
    "Brightness": partial(adjust, torch.zeros_like),
    "Color": partial(adjust, functional.rgb_to_grayscale),
    "Contrast": partial(adjust, mean_gray),
    "Sharpness": partial(adjust, smooth),
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": lambda images, _: functional.autocontrast(images),
    "Equalize": lambda images, _: functional.equalize(images),
}
