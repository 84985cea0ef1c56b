"""WeightNoise: weights are noisy while gradients are computed, and only then."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class WeightNoise(Callback):
    """Add Gaussian noise to weights, parameters with two or more axes, for forward and backward of a training batch.

    Optimizer, validation and checkpoints see the weights without it. Each process of several draws its own.
    arXiv:1308.0850, section 3.1, where the deviation is absolute.

    Args:
        std: deviation of the noise, relative to the root mean square of each weight, at least 0.
    """

    def __init__(self, std: float) -> None:
        if not 0 <= std < float("inf"):
            raise ValueError(f"std must be at least 0, got {std}")
        self.std = std
        self.true: list[tuple[Tensor, Tensor]] = []  # parameters that are noisy now, and what they were

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        weights = [p for p in pl_module.parameters() if p.requires_grad and p.ndim > 1]
        self.true = [(p, p.clone()) for p in weights]
        for p in weights:
            p.add_(torch.randn_like(p) * p.square().mean().sqrt(), alpha=self.std)

    @torch.no_grad()
    def restore(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        for p, value in self.true:
            p.copy_(value)
        self.true = []

    on_after_backward = restore
    # where there was no backward: a skipped step, a skipped epoch, an error
    on_before_optimizer_step = on_train_batch_end = on_train_epoch_end = on_exception = restore
