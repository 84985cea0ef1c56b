"""Optimized: how a net is initialised, regularised and optimized, by configuration."""

from collections.abc import Callable
from typing import Any

from lightning import LightningModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.optim import optimizer_and_schedule
from src.tasks.first_look import show_images


class Optimized(LightningModule):
    """A net with its optimizer.

    Args:
        net: the network to train.
        optimizer: called with the parameter groups of the net; biases and norms are spared weight decay.
        schedule: called with the optimizer, then stepped after each training step: one of ``src.optim``, which know
            the length of the run, or of ``torch.optim.lr_scheduler``, which count in steps.
        warmup_steps: steps over which the learning rate rises linearly before the schedule begins.
        groups: settings of the optimizer for the parameters of the net whose whole name matches a regular expression,
            such as {match: 'head.*', lr: 0.01}; the first that matches counts.
        layer_decay: factor of the learning rate from each layer to the one before it, in (0, 1].
        init: called with the net, to draw its weights anew: ``src.nets.Init``.
        penalties: called with the net and added to the training loss: those of ``src.penalties``.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        warmup_steps: int = 0,
        groups: list[dict[str, Any]] | None = None,
        layer_decay: float = 1.0,
        init: Callable[[nn.Module], Any] | None = None,
        penalties: list[Callable[[nn.Module], Any]] | None = None,
    ) -> None:
        super().__init__()
        if init is not None:
            init(net)
        self.net, self.optimizer = net, optimizer
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.groups, self.layer_decay, self.penalties = groups, layer_decay, penalties or []

    def setup(self, stage: str) -> None:
        if stage == "fit":
            show_images(self.net, self.trainer.datamodule)  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # Lightning notes each hook that it calls; a Module's own way is slow
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches
        made = (self.optimizer, self.schedule, self.warmup_steps, steps, self.groups, self.layer_decay)
        return optimizer_and_schedule(self.net, *made)
