"""Does a task fit the data? Asked once, before training."""

from typing import Any

import torch
from torch import nn

from src import UserError


def check_data(net: nn.Module, num_classes: int, data: Any) -> None:
    """Refuse a net for other images or classes than those of a ``src.data.DataModule``.

    Raises:
        UserError: with what the data has.
    """
    names, shape = getattr(data, "class_names", None), getattr(data, "shape", None)
    if names is not None and len(names) != num_classes:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(f"num_classes must be {len(names)}, the classes of the data ({shown}), got {num_classes}")
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
