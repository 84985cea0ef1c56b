"""Rotate, shift, scale, shear and crop images, by one matrix per sample."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from src import require
from src.data.augment.batch import cast_like, check_range, uniform
from src.data.augment.boxes import draw_boxes

PaddingMode = Literal["reflection", "zeros", "border"]


class RandomAffine(nn.Module):
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
        if padding_mode not in get_args(PaddingMode):
            raise ValueError(f"padding_mode must be one of {', '.join(get_args(PaddingMode))}, got {padding_mode}")
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear
        self.padding_mode = padding_mode

    def forward(self, images: Tensor) -> Tensor:
        return warp(images, affine_matrices(*self.draw(images)), padding_mode=self.padding_mode)

    def with_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Warp images (N, C, H, W) and masks (N, H, W) together."""
        matrix = affine_matrices(*self.draw(images))
        moved = warp(images, matrix, padding_mode=self.padding_mode)
        return moved, warp_masks(masks, matrix, self.padding_mode)

    def draw(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw the arguments of ``affine_matrices``."""
        rows, columns = images.shape[2:]
        bounds = (self.degrees, self.translate * columns, self.translate * rows, self.shear)
        angle, right, down, shear = (uniform(images, -bound, bound) for bound in bounds)
        return angle, torch.stack([right, down], 1).round(), uniform(images, *self.scale), shear


class RandomResizedCrop(nn.Module):
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

    def forward(self, images: Tensor) -> Tensor:
        return warp(images, self.draw(images), padding_mode="border")

    def with_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Crop and resize images (N, C, H, W) and masks (N, H, W) together."""
        matrix = self.draw(images)
        return warp(images, matrix, padding_mode="border"), warp_masks(masks, matrix, "border")

    def draw(self, images: Tensor) -> Tensor:
        """Draw the matrix of each image's crop, (N, 2, 3)."""
        return crop_matrices(*draw_boxes(images, self.scale, self.ratio), images.shape)


def affine_matrices(angle: Tensor, shift: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Return matrices (N, 2, 3) with which ``warp`` does what torchvision's ``affine`` does.

    Args:
        angle: in degrees, clockwise, (N,).
        shift: right and down, in pixels, (N, 2).
        scale: zoom factor, (N,).
        shear: in degrees, (N,).
    """
    angle, slope = angle.deg2rad(), shear.deg2rad().tan()
    cos, sin = angle.cos(), angle.sin()
    inverse = torch.stack([cos - sin * slope, sin + cos * slope, -sin, cos], 1).view(-1, 2, 2) / scale[:, None, None]
    return torch.cat([inverse, -(inverse * shift[:, None]).sum(2, keepdim=True)], 2)


def crop_matrices(top: Tensor, left: Tensor, height: Tensor, width: Tensor, shape: torch.Size) -> Tensor:
    """Return matrices (N, 2, 3) with which ``warp`` resizes a box, in pixels, (N,) each, to the image shape."""
    rows, columns = shape[2:]
    matrix = identity_matrices(top)
    matrix[:, 0, 0], matrix[:, 1, 1] = width / columns, height / rows
    matrix[:, 0, 2], matrix[:, 1, 2] = left + (width - columns) / 2, top + (height - rows) / 2
    return matrix


def identity_matrices(images: Tensor) -> Tensor:
    """Return one identity matrix per image, (N, 2, 3)."""
    return torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)


def warp(
    images: Tensor, matrix: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear", padding_mode: str = "reflection"
) -> Tensor:
    """Sample each pixel of the result at another position of its image.

    Args:
        images: (N, C, H, W).
        matrix: (N, 2, 3), maps a pixel's (x, y, 1), relative to the image center, to the (x, y) that it is sampled at.
        mode: interpolation.
        padding_mode: values outside the image.
    """
    grid = sampling_grid(matrix, images.shape)
    return cast_like(grid_sample(images.float(), grid, mode, padding_mode, align_corners=False), images)


def warp_masks(masks: Tensor, matrix: Tensor, padding_mode: str) -> Tensor:
    """Sample masks (N, H, W) at the pixels nearest to the positions where ``warp`` samples images."""
    grid = sampling_grid(matrix, masks[:, None].shape)
    moved = grid_sample(masks[:, None].float(), grid, "nearest", padding_mode, align_corners=False)
    return moved[:, 0].to(masks.dtype)  # exact for class numbers below 2 ** 24, negative ones too


def sampling_grid(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Return the positions at which ``grid_sample`` samples images of a shape (N, C, H, W), (N, H, W, 2)."""
    rows, columns = shape[2:]
    x = torch.arange(columns, device=matrix.device) - (columns - 1) / 2
    y = torch.arange(rows, device=matrix.device)[:, None] - (rows - 1) / 2
    # Not affine_grid: its matrix product is off by hundredths of a pixel on GPUs with TF32
    per_x, per_y, offset = matrix[..., None, None].unbind(2)  # (N, 2, 1, 1) each
    source_x, source_y = (per_x * x + per_y * y + offset).unbind(1)  # (N, H, W) each
    return torch.stack([source_x * (2 / columns), source_y * (2 / rows)], 3)
