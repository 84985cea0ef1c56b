"""Images rotated, shifted, scaled and sheared, and parts of images enlarged."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from src.data.augment.batch import check_range, restored, uniform
from src.data.augment.boxes import draw_boxes

PaddingMode = Literal["reflection", "zeros", "border"]


class RandomAffine(nn.Module):
    """Rotate, shift, scale and shear about the middle of the image, with bilinear interpolation.

    Args:
        degrees: largest rotation, to either side.
        translate: largest shift along each axis, as a share of the image, in [0, 1]; it is rounded to whole pixels,
            which keeps images sharp that are only shifted.
        scale: least and largest factor of size.
        shear: largest angle of horizontal shear, to either side, in degrees, in [0, 90).
        padding_mode: what is outside of the image: its mirror image, black or its border.
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
        if degrees < 0:
            raise ValueError(f"degrees must be at least 0, got {degrees}")
        if not 0 <= translate <= 1:
            raise ValueError(f"translate must be in [0, 1], got {translate}")
        check_range("scale", scale)
        if not 0 <= shear < 90:
            raise ValueError(f"shear must be in [0, 90), got {shear}")
        if padding_mode not in get_args(PaddingMode):
            raise ValueError(f"padding_mode must be one of {', '.join(get_args(PaddingMode))}, got {padding_mode}")
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear
        self.padding_mode = padding_mode

    def forward(self, images: Tensor) -> Tensor:
        return warp(images, affine(*self.draw(images)), padding_mode=self.padding_mode)

    def draw(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what ``affine`` takes."""
        rows, columns = images.shape[2:]
        bounds = (self.degrees, self.translate * columns, self.translate * rows, self.shear)
        angle, across, down, shear = (uniform(images, -most, most) for most in bounds)
        return angle, torch.stack([across, down], 1).round(), uniform(images, *self.scale), shear


class RandomResizedCrop(nn.Module):
    """Enlarge a rectangle of the image to the image's size, with bilinear interpolation; arXiv:1409.4842, section 6.

    Args:
        scale: least and largest share of the image's area, in (0, 1].
        ratio: least and largest width / height.
    """

    def __init__(self, scale: tuple[float, float] = (0.35, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        super().__init__()
        check_range("scale", scale, most=1)
        check_range("ratio", ratio)
        self.scale, self.ratio = scale, ratio

    def forward(self, images: Tensor) -> Tensor:
        boxes = draw_boxes(images, self.scale, self.ratio)
        return warp(images, enlargement(*boxes, images.shape), padding_mode="border")


def affine(angle: Tensor, shift: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Return the matrices (N, 2, 3) for ``warp`` of what torchvision's ``affine`` does, all about the middle.

    Args:
        angle: in degrees, clockwise, (N,).
        shift: in pixels to the right and down, (N, 2).
        scale: factor, (N,).
        shear: in degrees, (N,).
    """
    angle, slant = angle.deg2rad(), shear.deg2rad().tan()
    cos, sin = angle.cos(), angle.sin()
    back = torch.stack([cos - sin * slant, sin + cos * slant, -sin, cos], 1).view(-1, 2, 2) / scale[:, None, None]
    return torch.cat([back, -(back * shift[:, None]).sum(2, keepdim=True)], 2)


def enlargement(top: Tensor, left: Tensor, height: Tensor, width: Tensor, shape: torch.Size) -> Tensor:
    """Return the matrices (N, 2, 3) for ``warp`` that show a rectangle, in pixels, each (N,), all over the image."""
    rows, columns = shape[2:]
    matrix = unchanged(top)
    matrix[:, 0, 0], matrix[:, 1, 1] = width / columns, height / rows
    matrix[:, 0, 2], matrix[:, 1, 2] = left + (width - columns) / 2, top + (height - rows) / 2
    return matrix


def unchanged(images: Tensor) -> Tensor:
    """Return a matrix for ``warp`` that changes nothing, for each of the images, (N, 2, 3)."""
    return torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)


def warp(
    images: Tensor, matrix: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear", padding_mode: str = "reflection"
) -> Tensor:
    """Take each pixel from somewhere else in its image.

    Args:
        images: (N, C, H, W).
        matrix: (N, 2, 3), from a pixel's (x, y, 1), counted from the middle of the image, to where it is taken from.
        mode: of interpolation.
        padding_mode: what is outside of the image.
    """
    rows, columns = images.shape[2:]
    x = torch.arange(columns, device=images.device) - (columns - 1) / 2
    y = torch.arange(rows, device=images.device)[:, None] - (rows - 1) / 2
    # By hand, for affine_grid multiplies matrices, in TF32 on GPUs that are told to: hundredths of pixels off
    of_x, of_y, fixed = matrix[..., None, None].unbind(2)  # (N, 2, 1, 1) each
    to_x, to_y = (of_x * x + of_y * y + fixed).unbind(1)  # (N, H, W) each
    grid = torch.stack([to_x * (2 / columns), to_y * (2 / rows)], 3)
    return restored(grid_sample(images.float(), grid, mode, padding_mode, align_corners=False), images)
