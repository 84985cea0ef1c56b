"""Any transform of one image, applied to each image of a batch."""

import torch
from torch import Tensor, nn


class PerSample(nn.Module):
    """Apply a transform of ``torchvision.transforms.v2``, or one like it, to each image on its own: general, but slow.

    Args:
        transform: of one image (C, H, W), uint8, or float32 in [0, 1], to another one of the same shape.
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
