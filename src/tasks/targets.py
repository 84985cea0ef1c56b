"""Before training: check the targets of tasks other than classification."""

from torch import Tensor

from src import UserError, require


def check_numbers(targets: Tensor | None, num_outputs: int) -> None:
    """Refuse targets that are not as many numbers for each sample."""
    shape = None if targets is None else tuple(targets.shape)
    if targets is None or not targets.is_floating_point():
        got = "no targets" if targets is None else f"{targets.dtype} {shape}, such as classes or masks"
        raise UserError(f"Regressor needs targets that are numbers (floats), got {got}; convert them in load")
    fits = shape in {(len(targets), num_outputs), (len(targets),) if num_outputs == 1 else None}
    require(fits, f"num_outputs is {num_outputs}, but the targets have the shape {shape}")
    bad = (~targets.isfinite()).view(len(targets), -1).any(1).nonzero()[:, 0].tolist()
    require(not bad, f"targets must be finite numbers, got NaN or infinity in sample {(bad or [0])[0]}")


def check_masks(masks: Tensor | None, num_classes: int) -> None:
    """Refuse targets that are no masks, and classes outside [0, K)."""
    if masks is None or masks.ndim != 3 or masks.is_floating_point():
        got = "no targets" if masks is None else f"{masks.dtype} {tuple(masks.shape)}"
        raise UserError(f"Segmenter needs masks of classes (N, H, W), integers, got {got}")
    low, high = int(masks.min()), int(masks.max())
    if low < 0 or high >= num_classes:
        raise UserError(f"the masks have classes from {low} to {high}, but num_classes is {num_classes}")


def check_labels(targets: Tensor | None, num_classes: int) -> None:
    """Refuse targets that are not 0 or 1 for each class."""
    shape = None if targets is None else tuple(targets.shape)
    fits = targets is not None and targets.ndim == 2 and targets.shape[1] == num_classes
    if targets is None or not fits or not bool(((targets == 0) | (targets == 1)).all()):
        got = "no targets" if targets is None else f"{targets.dtype} {shape}"
        raise UserError(f"MultiLabel needs targets (N, {num_classes}) of 0 and 1, got {got}")
