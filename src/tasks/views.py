"""Test-time augmentation: what a net says of several views of each image, averaged."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Views = Literal["plain", "mirror", "mirror_shift"]


def averaged(net: Callable[[Tensor], Tensor], images: Tensor, views: Views) -> Tensor:
    """Return the outputs of a net (N, K), averaged over views of the images.

    Args:
        net: maps images to outputs.
        images: (N, C, H, W).
        views: ``mirror``: the image and its mirror image; ``mirror_shift``: these two weigh a half, as much as both
            shifted by a pixel up and left, and down and right, do together (Keller Jordan's airbench, arXiv:2404.00498,
            section 3.5).
    """
    if views == "plain":
        return net(images)
    shown = [(images, 1.0)]
    if views == "mirror_shift":
        h, w = images.shape[2:]
        padded = pad(images, [1] * 4, mode="reflect")
        shown = [(images, 0.5), *((padded[:, :, i : i + h, i : i + w], 0.25) for i in (0, 2))]
    return torch.stack([share / 2 * (net(view) + net(view.flip(3))) for view, share in shown]).sum(0)
