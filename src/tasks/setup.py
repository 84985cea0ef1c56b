"""Before training: check the task against the data, and initialize nets from the data."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from src import UserError
from src.losses import FocalLoss
from src.protocols import ImageData, InitFromData

MAX_PIXELS = 5000 * 32 * 32  # for data-dependent initialization


def check_num_classes(num_classes: int, data: Any) -> None:
    names = data.class_names if isinstance(data, ImageData) else None
    if names is not None and len(names) != num_classes:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(f"num_classes must be {len(names)}, the classes of the data ({shown}), got {num_classes}")


def check_net(net: nn.Module, data: Any) -> None:
    """Refuse a net that cannot process the data's images, at full size and at the smallest that augmentation makes."""
    lazy = any(isinstance(p, nn.UninitializedParameter) for p in net.parameters())
    if not isinstance(data, ImageData) or not data.shape or lazy:
        return
    training = net.training
    try:
        with torch.no_grad():
            like = next(net.parameters())
            for shape in (data.shape, data.smallest_shape):
                net.eval()(torch.zeros(2, *shape, device=like.device, dtype=like.dtype))
    except RuntimeError as error:
        raise UserError(f"the net does not accept the data's images, (C, H, W) = {shape}: {str(error)[:200]}") from None
    finally:
        net.train(training)


def check_loss(loss: Any, num_classes: int, mix: nn.Module | None) -> None:
    """Refuse a loss that does not accept classes (N,), or the soft targets (N, K) that ``mix`` makes."""
    buffers = list(loss.buffers()) if isinstance(loss, nn.Module) else []
    like = buffers[0] if buffers else torch.zeros(())
    logits = torch.zeros(2, num_classes, device=like.device, dtype=like.dtype, requires_grad=True)
    kinds = {"classes (N,)": torch.zeros(2, dtype=torch.long, device=logits.device)}
    if mix is not None:
        kinds[f"the soft targets (N, K) of {type(mix).__name__}"] = logits.detach().softmax(1)
    for kind, targets in kinds.items():
        try:
            value = loss(logits, targets)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise UserError(
                f"the loss does not accept logits (N, {num_classes}) and {kind} ({' '.join(str(error).split())[:100]});"
                " choose another, such as torch.nn.CrossEntropyLoss or one of src.losses"
            ) from None
        if not isinstance(value, Tensor) or value.ndim > 0 or not value.requires_grad:
            shown = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"the loss must return one number that depends on the logits, got {shown}; reduce it")


def counts_every_sample(loss: Any) -> bool:
    """Tell whether a loss divides by the number of samples, unless they have torch's ignored target -100."""
    weighted = isinstance(loss, FocalLoss | nn.CrossEntropyLoss | nn.NLLLoss) and loss.weight is not None
    return not weighted and getattr(loss, "ignore_index", -100) == -100 and getattr(loss, "reduction", "mean") != "sum"


def can_ignore_a_batch(loss: Any) -> bool:
    """Tell whether a loss may ignore all samples of a batch, which makes its mean NaN."""
    weight = None if counts_every_sample(loss) else getattr(loss, "weight", None)
    return getattr(loss, "ignore_index", -100) != -100 or (weight is not None and bool((weight == 0).any()))


def init_from_data(net: nn.Module, data: Any) -> None:
    """Call ``init_from_data`` of each module that has it, with normalized training images (N, C, H, W)."""
    modules = [module for module in net.modules() if isinstance(module, InitFromData)]
    if not modules:
        return
    if not isinstance(data, ImageData) or "train" not in data.splits:
        raise UserError(f"{type(modules[0]).__name__} needs a data module derived from src.data.DataModule")
    train = data.splits["train"]
    count = max(1, min(MAX_PIXELS // math.prod(data.shape[1:]), len(train)))
    images = data.normalize(train[torch.arange(count) * len(train) // count][1])  # spread evenly over the split
    for module in modules:
        module.init_from_data(images)
