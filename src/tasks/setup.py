"""A task and its data: checks before training, initial weights, and what a constant prediction reaches."""

import inspect
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from src import UserError, require
from src.losses import FocalLoss
from src.nets.weights import describe, load_weights
from src.protocols import Averageable, ImageData, InitFromData

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
    downloads = [p for p in new if p.name in DOWNLOADS]
    settings: dict[str, Any] = {p.name: False if isinstance(p.default, bool) else None for p in downloads}
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


def check_classes(data: Any, task: str, num_classes: int | None = None) -> None:
    """Refuse targets that are not classes, or outside [0, num_classes)."""
    for split in data.splits.values() if isinstance(data, ImageData) else ():
        if split.targets is not None and split.classes is None:
            got = f"{split.targets.dtype} {tuple(split.targets.shape)}"
            raise UserError(f"{task} needs classes as targets, integers (N,), got {got}; for a table, set data.classes")
        highest = -1 if split.classes is None or num_classes is None else int(split.classes.max())
        require(highest < (num_classes or 0), f"num_classes is {num_classes}, but the targets have class {highest}")


def check_classifier(task: Any) -> None:
    """Refuse a Classifier whose number of classes, loss, net or class weights do not fit the data."""
    data, k = task.trainer.datamodule, task.num_classes
    known = isinstance(data, ImageData)
    measures = task.class_weights == "balanced" and task.trainer.training
    require(known or not measures, "class_weights: balanced needs data derived from src.data.DataModule; or list them")
    check_num_classes(k, data)
    check_classes(data, "Classifier", k)
    check_loss(task.loss, k, data.mix if known else None)
    check_net(task.net, data, k)


def check_net(net: nn.Module, data: Any, outputs: int, per_pixel: bool = False) -> None:
    """Refuse a net that does not map the data's images to (N, K), or to (N, K, H, W) if it must ``per_pixel``.

    Also the smallest images that augmentation makes are tried.
    """
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
                size = shape[1:] if per_pixel else ()
                if got != (2, outputs, *size):
                    hint = "set the argument of the net that gives its outputs, or wrap the net in a class of your own"
                    wanted = ", ".join(map(str, ("N", outputs, *size)))
                    raise UserError(f"the net must return outputs ({wanted}), got {got} for N = 2: {hint}")
    except RuntimeError as error:
        raise UserError(f"the net does not accept the data's images, (C, H, W) = {shape}: {str(error)[:200]}") from None
    finally:
        net.train(training)


def check_loss(loss: Any, num_classes: int, mix: nn.Module | None) -> None:
    """Refuse a loss that does not accept classes (N,), or the soft targets (N, K) that ``mix`` makes."""
    kinds = {"classes (N,)": torch.zeros(2, dtype=torch.long)}
    if mix is not None:
        kinds[f"the soft targets (N, K) of {type(mix).__name__}"] = torch.ones(2, num_classes) / num_classes
    for kind, targets in kinds.items():
        try_loss(loss, f"logits (N, {num_classes}) and {kind}", torch.zeros(2, num_classes), targets)


def try_loss(loss: Any, kinds: str, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a loss that does not make one number of such outputs and targets."""
    buffers = list(loss.buffers()) if isinstance(loss, nn.Module) else []
    like = buffers[0] if buffers else torch.zeros(())
    kind = like.dtype if like.is_floating_point() else torch.float32
    outputs = outputs.to(like.device, kind).requires_grad_()
    try:
        value = loss(outputs, targets.to(like.device, kind if targets.is_floating_point() else targets.dtype))
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"the loss does not accept {kinds} ({' '.join(str(error).split())[:100]});"
            " choose another, such as torch.nn.CrossEntropyLoss or one of src.losses"
        ) from None
    if not isinstance(value, Tensor) or value.ndim > 0 or not value.requires_grad:
        shown = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"the loss must return one number that depends on the outputs, got {shown}; reduce it")


def counts_every_sample(loss: Any) -> bool:
    """Tell whether a loss divides by the number of samples, unless they have torch's ignored target -100."""
    weighted = isinstance(loss, FocalLoss | nn.CrossEntropyLoss | nn.NLLLoss) and loss.weight is not None
    return not weighted and getattr(loss, "ignore_index", -100) == -100 and getattr(loss, "reduction", "mean") != "sum"


def can_ignore_a_batch(loss: Any) -> bool:
    """Tell whether a loss may ignore all samples of a batch, which makes its mean NaN."""
    weight = None if counts_every_sample(loss) else getattr(loss, "weight", None)
    return getattr(loss, "ignore_index", -100) != -100 or (weight is not None and bool((weight == 0).any()))


def init_net(task: Any) -> str:
    """Initialize the net of a task from its data, then load its ``weights``; return what to print."""
    init_from_data(task.net, task.trainer.datamodule)
    weights, task.weights = task.weights, None  # a second fit continues from what the first trained
    return describe(weights, load_weights(task.net, weights, task.rename)) if weights else ""


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


def reference_metrics(task: Any, data: Any) -> dict[str, Tensor]:
    """Return test metrics of the mean of the training targets, or of the frequency of each class, for any input.

    None unless the training and the whole test split are loaded, and the task is averageable.
    """
    splits = data.splits if isinstance(data, ImageData) else {}
    whole: bool = isinstance(task, Averageable) and task.trainer.limit_test_batches == 1.0  # type: ignore[attr-defined]
    if not whole or not {"train", "test"} <= splits.keys():
        return {}
    (train, own), (test, others) = ((splits[s].targets, splits[s].index) for s in ("train", "test"))
    if train.is_floating_point() or train.ndim == 2:
        constant = train[own.to(train.device)].float().mean(0).view(-1)  # (D,) or (K,)
    else:
        parts = (train[index].flatten() for index in own.to(train.device).split(256))  # masks are large
        counts = torch.stack([part.bincount(minlength=task.num_classes) for part in parts]).sum(0)
        constant = counts / counts.sum()
    metrics, size = task.test_metrics.clone("reference/"), test.shape[1:] if test.ndim > 2 else ()
    for index in others.to(test.device).split(max(1, 2**24 // math.prod((len(constant), *size)))):
        targets = test[index].to(task.device)
        soft = constant.to(task.device).view(1, -1, *[1] * len(size)).expand(len(targets), -1, *size)
        metrics.update(*task.compare(soft, targets))
    return {name: value for name, value in metrics.compute().items() if not value.ndim}
