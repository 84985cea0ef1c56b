"""GradientNoise: noise on gradients that fades as training goes on."""

import os

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class GradientNoise(Callback):
    """Add Gaussian noise of variance ``eta / (1 + t)**gamma`` to each gradient, t the steps done; arXiv:1511.06807.

    It is added before Lightning clips gradients.

    Args:
        eta: variance in the first step, at least 0; the paper tries 0.01, 0.3 and 1.
        gamma: how fast it fades, at least 0.
    """

    def __init__(self, eta: float = 0.01, gamma: float = 0.55) -> None:
        if not 0 <= eta < float("inf"):
            raise ValueError(f"eta must be at least 0, got {eta}")
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        self.eta, self.gamma = eta, gamma

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        std = (self.eta / (1 + trainer.global_step) ** self.gamma) ** 0.5
        # the same in every process, as gradients are: their own generators differ
        seed = hash((int(os.environ.get("PL_GLOBAL_SEED", 0)), trainer.global_step)) % 2**63
        generator = torch.Generator(pl_module.device).manual_seed(seed)
        for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            p.grad.add_(torch.empty_like(p.grad).normal_(generator=generator), alpha=std)
