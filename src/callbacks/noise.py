"""GradientNoise and WeightNoise: noise on gradients, and on weights while gradients are computed."""

from math import inf
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from src import require


class GradientNoise(Callback):
    """Add Gaussian noise of variance ``eta / (1 + t)**gamma`` to each gradient in step t (arXiv:1511.06807).

    The noise is added before Lightning clips gradients. It depends on the seed and the step alone.

    Args:
        eta: variance in the first step, at least 0; the paper tries 0.01, 0.3 and 1.
        gamma: exponent of the decay, at least 0.
    """

    def __init__(self, eta: float = 0.01, gamma: float = 0.55) -> None:
        require(0 <= eta < inf, f"eta must be at least 0, got {eta}")
        require(0 <= gamma < inf, f"gamma must be at least 0, got {gamma}")
        self.eta, self.gamma = eta, gamma
        self.seed = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        if stage == "fit":  # all processes need the same noise, because they have the same gradients
            self.seed = trainer.strategy.broadcast(torch.initial_seed())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        std = (self.eta / (1 + trainer.global_step) ** self.gamma) ** 0.5
        seed = hash((self.seed, trainer.global_step)) % 2**63
        generator = torch.Generator(pl_module.device).manual_seed(seed)
        for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            p.grad.add_(torch.empty_like(p.grad).normal_(generator=generator), alpha=std)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = state_dict["seed"]


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
