"""Rotate, shift, scale, shear, crop and resize images."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from src import require
from src.data.augment.base import cast_like, check_range, uniform
from src.data.augment.erasing import draw_boxes
from src.data.augment.flip_crop import MovePixels

PaddingMode = Literal["reflection", "zeros", "border"]


class RandomAffine(MovePixels):
    """Rotate, shift, scale and shear about the image center, with bilinear interpolation.

    Args:
        degrees: largest rotation in either direction, in degrees.
        translate: largest shift along each axis, as a fraction of the image, in [0, 1]; rounded to whole pixels, so
            that a shift alone does not blur.
        scale: smallest and largest zoom factor.
        shear: largest horizontal shear in either direction, in degrees, in [0, 90).
        padding_mode: values outside the image: its reflection, zeros (black, and class 0 in masks) or its border.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        shear: float = 0.0,
        padding_mode: PaddingMode = "reflection",
    ) -> None:
        super().__init__()
        require(degrees >= 0, f"degrees must be at least 0, got {degrees}")
        require(0 <= translate <= 1, f"translate must be in [0, 1], got {translate}")
        check_range("scale", scale)
        require(0 <= shear < 90, f"shear must be in [0, 90), got {shear}")
        modes = get_args(PaddingMode)
        require(padding_mode in modes, f"padding_mode must be one of {', '.join(modes)}, got {padding_mode}")
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear
        self.padding_mode = padding_mode

    def make_params(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw the arguments of ``affine_matrices``."""
        rows, columns = images.shape[2:]
        bounds = (self.degrees, self.translate * columns, self.translate * rows, self.shear)
        angle, right, down, shear = (uniform(images, -bound, bound) for bound in bounds)
        return angle, torch.stack([right, down], 1).round(), uniform(images, *self.scale), shear

    def transform(self, images: Tensor, params: tuple[Tensor, ...], mode: str) -> Tensor:
        return warp(images, affine_matrices(*params), mode, self.padding_mode)


class RandomResizedCrop(MovePixels):
    """Crop a random rectangle and resize it to the image's size, bilinearly; arXiv:1409.4842, section 6.

    Args:
        scale: smallest and largest fraction of the image's area, in (0, 1].
        ratio: smallest and largest width / height.
    """

    def __init__(self, scale: tuple[float, float] = (0.35, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        super().__init__()
        check_range("scale", scale, max_value=1)
        check_range("ratio", ratio)
        self.scale, self.ratio = scale, ratio

    def make_params(self, images: Tensor) -> Tensor:
        """Draw matrices (N, 2, 3) with which ``warp`` enlarges boxes to the image's size."""
        rows, columns = images.shape[2:]
        top, left, height, width = draw_boxes(images, self.scale, self.ratio)
        matrix = identity_matrices(images)
        matrix[:, 0, 0], matrix[:, 1, 1] = width / columns, height / rows
        matrix[:, 0, 2], matrix[:, 1, 2] = left + (width - columns) / 2, top + (height - rows) / 2
        return matrix

    def transform(self, images: Tensor, matrix: Tensor, mode: str) -> Tensor:
        return warp(images, matrix, mode, "border")


class ProgressiveResize(MovePixels):
    """Shrink images in the first epochs to speed them up, for nets of any image size; arXiv:2104.00298, section 4.

    Args:
        sizes: longer side of the images, in pixels, in epochs 0, 1, ...; later epochs use the original size.
    """

    by_position = True

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        require(sizes and min(sizes) >= 1, f"sizes must be a list of numbers of at least 1, got {sizes}")
        self.sizes, self.resizes = sizes, len(sizes)

    def make_params(self, images: Tensor, _index: Tensor, epoch: int) -> list[int]:
        """Return height and width of the epoch."""
        longest = max(images.shape[2:])
        target = min([longest, *self.sizes[epoch : epoch + 1]])  # the slice is empty in later epochs
        return [max(1, round(side * target / longest)) for side in images.shape[2:]]

    def transform(self, images: Tensor, size: list[int], mode: str) -> Tensor:
        if [*images.shape[2:]] == size:
            return images
        if mode == "nearest":
            return cast_like(interpolate(images.float(), size, mode="nearest-exact"), images, clip=False)
        return cast_like(interpolate(images.float(), size, mode=mode, antialias=True), images)


def affine_matrices(angle: Tensor, shift: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Return matrices (N, 2, 3) with which ``warp`` does what torchvision's ``affine`` does.

    Angle, clockwise, and shear are in degrees, the shift (N, 2), right and down, in pixels; scale is a zoom factor.
    """
    angle, slope = angle.deg2rad(), shear.deg2rad().tan()
    cos, sin = angle.cos(), angle.sin()
    inverse = torch.stack([cos - sin * slope, sin + cos * slope, -sin, cos], 1).view(-1, 2, 2) / scale[:, None, None]
    return torch.cat([inverse, -(inverse * shift[:, None]).sum(2, keepdim=True)], 2)


def identity_matrices(images: Tensor) -> Tensor:
    return torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)


def warp(images: Tensor, matrix: Tensor, mode: str = "bilinear", padding_mode: str = "reflection") -> Tensor:
    """Sample each pixel of images or masks (N, C, H, W) at another position.

    The matrix (N, 2, 3) maps a pixel's (x, y, 1), relative to the image center, to the (x, y) that it is sampled at.
    Mode "nearest" is exact for class numbers below 2 ** 24, negative ones too.
    """
    rows, columns = images.shape[2:]
    x = torch.arange(columns, device=matrix.device) - (columns - 1) / 2
    y = torch.arange(rows, device=matrix.device)[:, None] - (rows - 1) / 2
    # Not affine_grid: its matrix product is off by hundredths of a pixel on GPUs with TF32
    per_x, per_y, offset = matrix[..., None, None].unbind(2)  # (N, 2, 1, 1) each
    source_x, source_y = (per_x * x + per_y * y + offset).unbind(1)  # (N, H, W) each
    grid = torch.stack([source_x * (2 / columns), source_y * (2 / rows)], 3)
    sampled = grid_sample(images.float(), grid, mode, padding_mode, align_corners=False)
    return cast_like(sampled, images, clip=mode == "bilinear")
