"""GradientNoise: noise on gradients that decays during training."""

from math import inf
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
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
