"""Weights of the classes in a loss, so that small ones count as much as large ones."""

from itertools import product
from math import inf
from typing import Any

import torch
from torch import nn

from src import UserError


def weigh(loss: Any, num_classes: int, weights: list[float]) -> None:
    """Set the weights of the classes: ``pos_weight`` where a loss has that, else ``weight``.

    Raises:
        UserError: if it has neither, or there are not as many weights as classes.
    """
    if len(weights) != num_classes:
        raise UserError(f"class_weights must be {num_classes} numbers, one for each class, got {len(weights)}")
    if not (any(weights) and all(0 <= weight < inf for weight in weights)):
        raise UserError(f"class_weights must be numbers of at least 0, not all of them 0, got {weights}")
    name = weights_name(loss)
    like = getattr(loss, name)
    setattr(loss, name, torch.tensor(weights, device=None if like is None else like.device))


def weights_name(loss: Any) -> str:
    named = [name for name in ("pos_weight", "weight") if isinstance(loss, nn.Module) and name in loss._buffers]
    if not named:
        got = getattr(loss, "__name__", type(loss).__name__)
        raise UserError(f"class_weights needs a loss that has them, such as torch.nn.CrossEntropyLoss, got {got}")
    return named[0]


def restore(task: Any, checkpoint: dict[str, Any]) -> None:
    """Put the task's class weights into those of a checkpoint, which alone may know balanced ones."""
    states = [checkpoint[key] for key in ("state_dict", "current_model_state") if key in checkpoint]  # with an average
    for state, name in product(states, ("loss.weight", "loss.pos_weight")):
        own = task.state_dict().get(name)
        if own is None:
            state.pop(name, None)
        elif task.class_weights != "balanced" or name not in state:
            state[name] = own


def balanced(loss: Any, num_classes: int, data: Any) -> list[float]:
    """Return weights that make all classes of the training part count the same.

    For a ``weight`` N / (K * N_k), with a mean of one over the samples, where N_k of N targets are of class k; for a
    ``pos_weight`` (N - N_k) / N_k, negatives for each positive.
    """
    if "train" not in getattr(data, "parts", {}):
        raise UserError("class_weights: balanced needs data derived from src.data.DataModule; else list the weights")
    targets = data.parts["train"].classes
    counts = torch.bincount(targets, minlength=num_classes).clamp(min=1)
    if weights_name(loss) == "pos_weight":
        return ((len(targets) - counts) / counts).tolist()
    return (len(targets) / (num_classes * counts)).tolist()
