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
    check_loss(loss, num_classes, getattr(data, "mix", None))
    if not shape or any(isinstance(p, nn.UninitializedParameter) for p in net.parameters()):
        return
    training = net.training
    try:
        with torch.no_grad():
            like = next(net.parameters())
            for shape in (data.shape, getattr(data, "seen_shape", data.shape)):  # the smallest that it sees
                net.eval()(torch.zeros(2, *shape, device=like.device, dtype=like.dtype))
    except RuntimeError as error:
        raise UserError(f"the net does not take the data's images, (C, H, W) = {shape}: {str(error)[:200]}") from None
    finally:
        net.train(training)


def check_loss(loss: Any, num_classes: int, mix: nn.Module | None) -> None:
    """Refuse a loss that does not take the targets: classes (N,), and soft ones (N, K) where ``mix`` makes them."""
    buffers = list(loss.buffers()) if isinstance(loss, nn.Module) else []
    like = buffers[0] if buffers else torch.zeros(())
    logits = torch.zeros(2, num_classes, device=like.device, dtype=like.dtype, requires_grad=True)
    kinds = {"classes (N,)": torch.zeros(2, dtype=torch.long, device=logits.device)}
    if mix is not None:
        kinds[f"the soft targets (N, K) that {type(mix).__name__} makes"] = logits.detach().softmax(1)
    for kind, targets in kinds.items():
        try:
            value = loss(logits, targets)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise UserError(
                f"the loss does not take logits (N, {num_classes}) and {kind} ({' '.join(str(error).split())[:100]}); "
                "choose another, such as torch.nn.CrossEntropyLoss or one of src.losses"
            ) from None
        if not isinstance(value, torch.Tensor) or value.ndim > 0 or not value.requires_grad:
            shown = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise UserError(f"the loss must be one number that depends on the logits, got {shown} (a reduction?)")
