"""Freeze: layers that are not trained in some epochs."""

import difflib
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from src import UserError, compile_pattern, require


class Freeze(Callback):
    """Freeze matching parameters for a range of epochs and skip their gradients.

    Batch norms whose parameters are all frozen do not update their statistics. The optimizer neither updates nor decays
    frozen parameters; afterwards they train with the current learning rate. A parameter that several of these callbacks
    match is frozen while any of them freezes it.

    Args:
        match: regular expression for the full names of parameters in the LightningModule, such as ``net.features.*``.
        start: first epoch in which they are frozen, counted from 0.
        stop: first epoch in which they are trained again; None for never.
    """

    def __init__(self, match: str, start: int = 0, stop: int | None = None) -> None:
        self.pattern = compile_pattern("match", match)
        valid = start >= 0 and (stop is None or stop > start)
        require(valid, f"start must be at least 0 and stop greater than start, got {start} and {stop}")
        self.start, self.stop = start, stop
        self.params: set[nn.Parameter] = set()
        self.norms: list[nn.Module] = []
        self.all: list[Freeze] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        trainable = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        self.params = {p for name, p in trainable.items() if self.pattern.fullmatch(name)}
        self.all = [callback for callback in trainer.callbacks if isinstance(callback, Freeze)]  # type: ignore[attr-defined]
        setting = f"Freeze.match {self.pattern.pattern!r}"
        if not self.params:
            closest = ", ".join(difflib.get_close_matches(self.pattern.pattern, trainable, n=3, cutoff=0))
            raise UserError(f"{setting} matches no trainable parameter; closest: {closest}")
        for epoch in {callback.start for callback in self.all}:
            remains = not all(self.is_frozen(p, epoch) for p in trainable.values())
            require(remains, f"{setting} leaves no parameter to train in epoch {epoch}")
        norms = (module for module in pl_module.modules() if hasattr(module, "running_mean"))
        self.norms = [norm for norm in norms if self.params.intersection(norm.parameters(recurse=False))]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        ddp: Any = trainer.strategy.model
        if isinstance(ddp, nn.parallel.DistributedDataParallel) and not ddp.find_unused_parameters:
            raise UserError("Freeze with several processes needs --trainer.strategy=ddp_find_unused_parameters_true")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.begin(trainer.current_epoch)

    on_train_start = on_train_epoch_start  # a run that resumes within an epoch does not start that epoch again

    def begin(self, epoch: int) -> None:
        for p in self.params:
            p.requires_grad_(not self.is_frozen(p, epoch))
        for norm in self.norms:
            norm.train(any(p.requires_grad for p in norm.parameters(recurse=False)))

    def is_frozen(self, p: nn.Parameter, epoch: int) -> bool:
        active = (each for each in self.all if epoch >= each.start and (each.stop is None or epoch < each.stop))
        return any(p in each.params for each in active)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        for p in self.params:
            p.requires_grad_(True)
        self.params, self.norms, self.all = set(), [], []
