"""Before training: check the targets of tasks other than classification, and try their losses."""

from typing import Any

import torch
from torch import Tensor

from src import UserError, require
from src.losses import LogError
from src.protocols import ImageData
from src.tasks.setup import check_num_classes, try_loss


def all_targets(task: Any) -> list[Tensor | None]:
    """Return the targets of each split that is loaded."""
    data = task.trainer.datamodule
    splits = data.splits if isinstance(data, ImageData) else {}
    return [splits[name].targets for name in ("train", "val", "test") if name in splits]


def check_numbers(task: Any) -> None:
    """Refuse targets of a Regressor that are not finite, not D numbers for each sample, or unfit for its loss."""
    found = all_targets(task)
    for targets in found:
        shape = None if targets is None else tuple(targets.shape)
        if targets is None or not targets.is_floating_point():
            got = "no targets" if targets is None else f"{targets.dtype} {shape}, such as classes or masks"
            raise UserError(f"Regressor needs targets that are numbers (floats), got {got}; convert them in load")
        fits = shape in {(len(targets), task.num_outputs), (len(targets),) if task.num_outputs == 1 else None}
        require(fits, f"num_outputs is {task.num_outputs}, but the targets have the shape {shape}")
        bad = (~targets.isfinite()).view(len(targets), -1).any(1).nonzero()[:, 0].tolist()
        require(not bad, f"targets must be finite numbers, got NaN or infinity in sample {(bad or [0])[0]}")
        negative = isinstance(task.loss, LogError) and bool((targets < 0).any())
        require(not negative, "LogError needs targets of at least 0, got negative ones: choose another loss")
    half = task.trainer.precision in ("bf16-true", "16-true") and not task.trainer.predicting
    require(not half, f"precision {task.trainer.precision} rounds the targets of Regressor: use bf16-mixed")
    one = found and found[0] is not None and found[0].ndim == 1
    outputs = torch.ones(2) if one else torch.ones(2, task.num_outputs)
    outputs[1] = -2
    try_loss(task.loss, f"outputs and targets (N{'' if one else ', D'})", outputs, torch.ones_like(outputs))


def check_masks(task: Any) -> None:
    """Refuse targets of a Segmenter that are no masks, classes outside [0, K), and a loss that does not accept them."""
    k = task.num_classes
    for masks in all_targets(task):
        if masks is None or masks.ndim != 3 or masks.is_floating_point():
            got = "no targets" if masks is None else f"{masks.dtype} {tuple(masks.shape)}"
            raise UserError(f"Segmenter needs masks of classes (N, H, W), integers, got {got}")
        low, high = int(masks.min()), int(masks.max())
        require(low >= 0 and high < k, f"the masks have classes from {low} to {high}, but num_classes is {k}")
    check_num_classes(k, task.trainer.datamodule)
    ones = torch.ones(2, 2, 2, dtype=torch.long)
    try_loss(task.loss, f"logits (N, {k}, H, W) and masks (N, H, W)", torch.zeros(2, k, 2, 2), ones)


def check_labels(task: Any) -> None:
    """Refuse targets of a MultiLabel that are not 0 or 1 for each class, and a loss that does not accept them."""
    k = task.num_classes
    for targets in all_targets(task):
        fits = targets is not None and targets.ndim == 2 and targets.shape[1] == k
        if targets is None or not fits or not bool(((targets == 0) | (targets == 1)).all()):
            got = "no targets" if targets is None else f"{targets.dtype} {tuple(targets.shape)}"
            raise UserError(f"MultiLabel needs targets (N, {k}) of 0 and 1, got {got}")
    check_num_classes(k, task.trainer.datamodule)
    labels = torch.eye(2, k)
    try_loss(task.loss, f"logits and targets (N, {k})", labels - 0.5, labels)
