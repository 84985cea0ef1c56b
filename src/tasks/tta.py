"""Test-time augmentation (TTA): predictions averaged over shifted and mirrored copies of an image."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from src import at_least_float32, require
from src.protocols import ImageData


def check_tta(task: Any) -> None:
    """Refuse augmentation at test time that needs several pixels."""
    data: Any = task.trainer.datamodule
    tiny = isinstance(data, ImageData) and bool(data.shape) and min(data.shape[1:]) < 2
    fits = not tiny or task.tta != "mirror_shift"
    require(fits, "tta must not be mirror_shift: the inputs are one pixel high or wide")


def predict_with_tta(net: Callable[[Tensor], Tensor], images: Tensor, tta: str) -> Tensor:
    """Return the outputs of a net, (N, K) or (N, K, H, W), averaged over augmented views of the images (N, C, H, W).

    ``mirror_shift`` gives half the weight to shifts by one pixel up-left and down-right; arXiv:2404.00498, section 3.5.
    """
    if tta == "plain":
        return net(images)
    views = [(images, 1 / 2)]
    if tta == "mirror_shift":
        padded = pad(images, [1] * 4, mode="reflect")
        views = [(images, 1 / 4), (padded[..., :-2, :-2], 1 / 8), (padded[..., 2:, 2:], 1 / 8)]
    copies = [each for view, _ in views for each in (view, view.flip(3))]
    if torch.compiler.is_exporting():  # the exported file has the net once
        joined = net(torch.cat(copies))
        outputs = [*joined.reshape(len(copies), -1, *joined.shape[1:])]
    else:
        outputs = [net(each) for each in copies]
    means = []
    for (_, weight), output, mirrored in zip(views, outputs[::2], outputs[1::2], strict=True):
        output, mirrored = at_least_float32(output), at_least_float32(mirrored)
        if output.ndim > 2:  # per pixel
            require(tta == "mirror", f"tta must be plain or mirror for outputs per pixel, got {tta}")
            mirrored = mirrored.flip(-1)
        means.append(weight * (output + mirrored))
    return torch.stack(means).sum(0)
