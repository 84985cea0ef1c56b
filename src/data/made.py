"""Datasets made from digits, with exact targets of another kind."""

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import InterpolationMode, rotate

from src.data.base import DataModule
from src.data.digits import Digits


class Rotated(DataModule):
    """Images of another dataset, each turned counterclockwise by an angle in [-45, 45) degrees, its target, (N,).

    The angles are the same in each run.
    """

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, _ = super().load(train)
        self.class_names = None
        generator = torch.Generator().manual_seed(int(train))
        angles = 90 * torch.rand(len(images), generator=generator) - 45
        turned = [
            rotate(image, angle, InterpolationMode.BILINEAR)
            for image, angle in zip(images, angles.tolist(), strict=True)
        ]
        return torch.stack(turned), angles


class RotatedDigits(Rotated, Digits):
    """``src.data.Digits``, turned."""


class UnseenClasses(DataModule):
    """Images of another dataset of digits: training and validation have 0 to 6, the test set has 7 to 9."""

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, classes = cast(tuple[Tensor, Tensor], super().load(train))
        self.class_names = None  # the test set has others
        kept = ((classes < 7) == train).nonzero()[:, 0]
        return images[kept], classes[kept]


class UnseenDigits(UnseenClasses, Digits):
    """``src.data.Digits``, with 7 to 9 only in the test set."""


class DigitMosaics(Digits):
    """Four digits or gaps of ``src.data.Digits`` in 16x16 pixels; targets (N, 10) are 1 for the digits in the image."""

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        digits, classes = super().load(train)
        draw = torch.Generator().manual_seed(int(train))
        chosen = torch.randint(len(digits), (len(digits), 4), generator=draw)
        shown = torch.rand(chosen.shape, generator=draw) < 0.5
        tiles = digits[chosen] * shown[:, :, None, None, None]  # (N, 4, 1, 8, 8)
        images = tiles.view(-1, 2, 2, 8, 8).transpose(2, 3).reshape(-1, 1, 16, 16)
        labels = torch.zeros(len(digits), 10).scatter_reduce_(1, classes[chosen], shown.float(), "amax")
        return images, labels


class Scenes(DataModule):
    """Digits laid on other pictures in random places and bright colors; masks (N, H, W) have digit + 1 where ink is.

    The other pixels are class 0, background. The scenes are the same in each run.
    """

    def backgrounds(self, train: bool, count: int) -> Tensor:
        """Return pictures (count, C, H, W), uint8, larger than the digits."""
        raise NotImplementedError

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        digits, classes = cast(tuple[Tensor, Tensor], super().load(train))
        self.class_names = ["background", *map(str, range(10))]
        draw, images = torch.Generator().manual_seed(int(train)), self.backgrounds(train, len(digits)).clone()
        masks = torch.zeros(len(images), *images.shape[2:], dtype=torch.uint8)
        colors = torch.randint(128, 256, images.shape[:2], generator=draw, dtype=torch.uint8)
        size = digits.shape[2:]
        tops, lefts = (
            torch.randint(free + 1, (len(images),), generator=draw).tolist()
            for free in (images.shape[2] - size[0], images.shape[3] - size[1])
        )
        for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            ink = digits[i, 0] > 127
            place = (slice(top, top + size[0]), slice(left, left + size[1]))
            images[i, :, *place] = torch.where(ink, colors[i, :, None, None], images[i, :, *place])
            masks[i, *place] = torch.where(ink, classes[i] + 1, 0).byte()
        return images, masks


class DigitScenes(Scenes, Digits):
    """``src.data.Digits`` on 16x16 pixels of dark, smooth noise."""

    def backgrounds(self, train: bool, count: int) -> Tensor:
        noise = torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(2 + train))
        return interpolate(127 * noise, (16, 16), mode="bilinear").byte()
