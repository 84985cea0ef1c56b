"""Does a task fit the data? Asked once, before training."""

from typing import Any

import torch
from torch import nn

from src import UserError


def check_data(net: nn.Module, loss: Any, num_classes: int, data: Any) -> None:
    """Refuse a net or a loss for other images, classes or targets than those of a ``src.data.DataModule``.

    Raises:
        UserError: with what the data has.
    """
    names, shape = getattr(data, "class_names", None), getattr(data, "shape", None)
    if names is not None and len(names) != num_classes:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(f"num_classes must be {len(names)}, the classes of the data ({shown}), got {num_classes}")
    if getattr(data, "mix", None) is not None:
        check_soft_targets(loss, num_classes, type(data.mix).__name__)
    if not shape or any(isinstance(p, nn.UninitializedParameter) for p in net.parameters()):
        return
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(2, *shape, device=next(net.parameters()).device))
    except RuntimeError as error:
        raise UserError(f"the net does not take the data's images, (C, H, W) = {shape}: {str(error)[:200]}") from None
    finally:
        net.train(training)


def check_soft_targets(loss: Any, num_classes: int, mix: str) -> None:
    buffers = list(loss.buffers()) if isinstance(loss, nn.Module) else []
    logits = torch.zeros(2, num_classes, device=buffers[0].device if buffers else None)
    try:
        loss(logits, logits.softmax(1))
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(
            f"{mix} makes soft targets (N, K), which the loss does not take ({str(error)[:100]}); leave out data.mix "
            "or choose another loss, such as torch.nn.CrossEntropyLoss or one of src.losses"
        ) from None
