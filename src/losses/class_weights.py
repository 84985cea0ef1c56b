"""Class weights of a loss, so that rare classes count as much as frequent ones."""

from contextlib import suppress
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from src import UserError, require
from src.losses.classification import FocalLoss, check_weights

NAMES = ("pos_weight", "weight")


def set_class_weights(loss: Any, num_classes: int, weights: list[float] | Literal["balanced"]) -> None:
    """Set ``pos_weight`` of a loss if it has one, else ``weight``; refuse a loss with neither.

    ``balanced`` weights are ones until ``balance_classes`` measures them.
    """
    weights = [1.0] * num_classes if isinstance(weights, str) else weights
    expected = f"{num_classes} numbers, one for each class"
    require(len(weights) == num_classes, f"class_weights must be {expected}, got {len(weights)}")
    check_weights("class_weights", weights)
    name = weight_name(loss)
    current = loss.get_buffer(name)
    setattr(loss, name, torch.tensor(weights, device=None if current is None else current.device))


def balance_classes(task: Any) -> None:
    """Set the class weights of a classifier's loss so that all classes of its training split count equally."""
    targets = task.trainer.datamodule.splits["train"].classes
    set_class_weights(task.loss, task.num_classes, balanced_weights(task.loss, task.num_classes, targets))


def balanced_weights(loss: Any, num_classes: int, targets: Tensor) -> list[float]:
    """Return weights that make all classes of the training targets (N,) count equally.

    With N_k of N targets in class k, a ``weight`` is N / (K * N_k), which averages one over the samples, and a
    ``pos_weight`` is (N - N_k) / N_k, negatives per positive.
    """
    counts = torch.bincount(targets, minlength=num_classes).clamp(min=1)
    if weight_name(loss) == "pos_weight":
        return ((len(targets) - counts) / counts).tolist()
    return (len(targets) / (num_classes * counts)).tolist()


def restore_class_weights(states: list[dict[str, Any]], loss: Any, keep_stored: bool) -> None:
    """Replace the class weights in stored state dicts of tasks by those of the configured loss.

    With ``keep_stored``, stored weights win, as balanced ones do, because only the checkpoint has them.
    """
    configured = loss.state_dict(keep_vars=True) if isinstance(loss, nn.Module) else {}
    names = [name for name in NAMES if not isinstance(configured.get(name), nn.Parameter)]  # parameters are trained
    for state, name in product(states, names):
        key = f"loss.{name}"
        if name not in configured:
            state.pop(key, None)
        elif not keep_stored or key not in state:
            state[key] = configured[name]


def loss_denominator(loss: Any, targets: Tensor) -> Tensor | int | None:
    """Return what a loss divides by: the summed class weights of the targets, or the number of samples; None for a sum.

    The weights count in torch.nn.CrossEntropyLoss for classes (N,), not for soft labels (N, K), and in FocalLoss.
    Targets that a loss ignores do not count.
    """
    if getattr(loss, "reduction", "mean") == "sum":
        return None
    if isinstance(loss, FocalLoss) and loss.weight is not None:
        return (targets @ loss.weight if targets.is_floating_point() else loss.weight[targets]).sum()
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and not targets.is_floating_point():
        kept = targets != loss.ignore_index
        return kept.sum() if loss.weight is None else (loss.weight[targets.where(kept, 0)] * kept).sum()
    return len(targets)


def weight_name(loss: Any) -> str:
    """Return the name of the buffer for the class weights of a loss; the buffer is None until they are set."""
    for name in NAMES:
        with suppress(AttributeError):
            loss.get_buffer(name)
            return name
    got = getattr(loss, "__name__", type(loss).__name__)
    raise UserError(f"class_weights needs a loss with class weights, such as torch.nn.CrossEntropyLoss, got {got}")
