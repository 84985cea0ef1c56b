"""Apply a transform of one image to each image of a batch."""

import torch
from torch import Tensor, nn
from torchvision.tv_tensors import Image, Mask


class PerSample(nn.Module):
    """Apply a ``torchvision.transforms.v2`` transform, or a similar one, to one image after the other; slow.

    Args:
        transform: called with an image (C, H, W), uint8, or float32 in [0, 1]; returns an image of the same shape. If
            targets are masks, called with a ``tv_tensors.Image`` and a ``tv_tensors.Mask`` (H, W); returns both.
    """

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 0:
            return images
        if images.is_floating_point():
            return torch.stack([self.transform(image) for image in images / 255]) * 255
        return torch.stack([self.transform(image) for image in images])

    def with_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Transform images (N, C, H, W) and masks (N, H, W) together."""
        if len(images) == 0:
            return images, masks
        scale = 255 if images.is_floating_point() else 1
        inputs = images / 255 if images.is_floating_point() else images
        pairs = [self.transform(Image(image), Mask(mask)) for image, mask in zip(inputs, masks, strict=True)]
        moved, moved_masks = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return moved * scale, moved_masks
