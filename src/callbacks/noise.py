"""WeightNoise: noisy weights while gradients are computed."""

from math import inf
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from src import require


class WeightNoise(Callback):
    """Add Gaussian noise to the weights for the forward and backward pass of each training batch.

    Weights are parameters of at least two dimensions. The optimizer, validation and checkpoints see them without noise.
    Each process draws its own noise. From arXiv:1308.0850, section 3.1, where the standard deviation is absolute.

    Args:
        std: standard deviation of the noise relative to the root mean square of each weight tensor, at least 0.
    """

    def __init__(self, std: float) -> None:
        require(0 <= std < inf, f"std must be at least 0, got {std}")
        self.std = std
        self.originals: list[tuple[Tensor, Tensor]] = []  # noisy parameters and their values without noise

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        weights = [p for p in pl_module.parameters() if p.requires_grad and p.ndim > 1]
        self.originals = [(p, p.clone()) for p in weights]
        for p in weights:
            p.add_(torch.randn_like(p) * p.square().mean().sqrt(), alpha=self.std)

    @torch.no_grad()
    def restore(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        for p, value in self.originals:
            p.copy_(value)
        self.originals = []

    on_after_backward = restore
    # without a backward pass: a skipped step, a skipped epoch, an error
    on_before_optimizer_step = on_train_batch_end = on_train_epoch_end = on_exception = restore
