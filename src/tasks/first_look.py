"""What a net learns from images before it is trained."""

import math
from typing import Any

import torch
from torch import nn

from src import UserError

MOST = 5000 * 32 * 32  # pixels


def show_images(net: nn.Module, data: Any) -> None:
    """Call each module's ``see`` with normalised training images (N, C, H, W), where it has one.

    Raises:
        UserError: if there are such modules, but not a ``src.data.DataModule``.
    """
    seeing: list[Any] = [module for module in net.modules() if hasattr(module, "see")]
    if not seeing:
        return
    if "train" not in getattr(data, "parts", {}):
        raise UserError(f"{type(seeing[0]).__name__} needs data of a class derived from src.data.DataModule")
    train = data.parts["train"]
    count = max(1, min(MOST // math.prod(data.shape[1:]), len(train)))
    images = data.normalize(train[torch.arange(count) * len(train) // count][1])  # spread over the classes
    for module in seeing:
        module.see(images)
