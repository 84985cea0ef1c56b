"""Augmentations of torchvision and kornia."""

import torch
from torch import Tensor, nn
from torchvision.tv_tensors import Image, Mask

from src import UserError
from src.data.augment.base import cast_like


class PerSample(nn.Module):
    """Apply a ``torchvision.transforms.v2`` transform, or a similar one, to one image at a time; slow.

    Args:
        transform: called with an image (C, H, W), uint8, or float32 in [0, 1]; returns an image of the same shape. If
            targets are masks, called with a ``tv_tensors.Image`` and a ``tv_tensors.Mask`` (H, W); returns both.
    """

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, images: Tensor) -> Tensor:
        inputs, scale = (images / 255, 255) if images.is_floating_point() else (images, 1)
        return torch.stack([self.transform(image) for image in inputs]) * scale if len(images) else images

    def with_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) == 0:
            return images, masks
        inputs, scale = (images / 255, 255) if images.is_floating_point() else (images, 1)
        pairs = [self.transform(Image(image), Mask(mask)) for image, mask in zip(inputs, masks, strict=True)]
        moved, moved_masks = map(torch.stack, zip(*pairs, strict=True))
        return moved * scale, moved_masks


class Kornia(nn.Module):
    """Apply augmentations of ``kornia.augmentation`` in order, each sample with its own draw; masks move with images.

    Install kornia with ``make extras``.

    Args:
        transforms: kornia augmentations that keep the image size, called with float32 images in [0, 1].
    """

    def __init__(self, transforms: list[nn.Module]) -> None:
        super().__init__()
        try:
            from kornia.augmentation import AugmentationSequential
            from kornia.constants import DataKey
        except ImportError as error:
            raise UserError("kornia is not installed: run make extras") from error
        # Replaces a default of align_corners=None, with which RandomElasticTransform warns
        self.transforms = AugmentationSequential(*transforms, extra_args={DataKey.MASK: {"resample": "nearest"}})

    def forward(self, images: Tensor) -> Tensor:
        return cast_like(self.transforms(images.float() / 255, data_keys=["input"]) * 255, images)

    def with_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        inputs = images.float() / 255, masks[:, None]
        try:
            moved, moved_masks = self.transforms(*inputs, data_keys=["input", "mask"])
        except NotImplementedError as error:
            names = ", ".join(type(transform).__name__ for transform in self.transforms)
            raise UserError(f"data.augment: Kornia: one of {names} does not support masks: remove it") from error
        return cast_like(moved * 255, images), moved_masks[:, 0]
