"""Before training: check the task against the data, and initialize nets from the data."""

import inspect
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from src import UserError
from src.losses import FocalLoss
from src.protocols import ImageData, InitFromData

OUTPUTS = re.compile(r"(n|num)_?(class(es)?|outputs?|labels?)|classes|(out|output)_(dim|size|features)")  # names of K
DOWNLOADS = ("pretrained", "pretrained_backbone", "weights", "weights_backbone", "backbone_weights", "encoder_weights")
MAX_PIXELS = 5000 * 32 * 32  # for data-dependent initialization


class NetFactory(Protocol):
    """A class or function that builds a net; a config sets all its other arguments."""

    def __call__(self, num_classes: int, num_outputs: int, n_classes: int, num_labels: int) -> nn.Module: ...


def build_net(net: nn.Module | Callable[..., nn.Module], outputs: int) -> nn.Module:
    """Build a net with that many outputs, given by keyword or as its first argument; download no weights.

    A net that is already built, or whose arguments do not name the number of outputs, stays as it is.
    """
    if isinstance(net, nn.Module):
        return net
    given = net.keywords if isinstance(net, partial) else {}
    classes = [each for each in getattr(net, "args", ()) if inspect.isclass(each)]  # of a partial of jsonargparse
    parameters = inspect.signature(classes[-1] if classes else net).parameters.values()
    new = [each for each in parameters if each.name not in given]
    settings: dict[str, Any] = {
        p.name: False if isinstance(p.default, bool) else None for p in new if p.name in DOWNLOADS
    }
    names = [p.name for p in parameters if OUTPUTS.fullmatch(p.name)]
    required = [p for p in new if p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD]
    if names and not (required and required[0].name not in names):
        return net(**settings, **{names[0]: outputs})
    if required:
        return net(outputs, **settings)
    return net(**settings, **({"num_classes": outputs} if any(p.kind is p.VAR_KEYWORD for p in new) else {}))


def check_num_classes(num_classes: int, data: Any) -> None:
    names = data.class_names if isinstance(data, ImageData) else None
    if names is not None and len(names) != num_classes:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(f"num_classes must be {len(names)}, the classes of the data ({shown}), got {num_classes}")


def check_net(net: nn.Module, data: Any, outputs: int) -> None:
    """Refuse a net that does not map the data's images, also the smallest that augmentation makes, to logits (N, K)."""
    lazy = any(isinstance(p, nn.UninitializedParameter) for p in net.parameters())
    if not isinstance(data, ImageData) or not data.shape or lazy:
        return
    training = net.training
    try:
        with torch.no_grad():
            like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
            for shape in (data.shape, data.smallest_shape):
                logits = net.eval()(torch.zeros(2, *shape, device=like.device, dtype=like.dtype))
                got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                if got != (2, outputs):
                    hint = "set the argument of the net that gives its outputs, or wrap the net in a class of your own"
                    raise UserError(f"the net must return logits (N, {outputs}), got {got} for N = 2: {hint}")
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
