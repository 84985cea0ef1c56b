"""Freeze: layers that are not trained in some of the epochs."""

import difflib
import re

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from src import UserError


class Freeze(Callback):
    """Leave parameters as they are from one epoch on or until one; gradients that only they need are not computed.

    Batch norms whose parameters are all frozen keep their statistics too. The optimizer neither moves nor decays what
    is frozen, and trains it later with the learning rate of then. Of several, each holds what it matches.

    Args:
        match: regular expression for the whole names of parameters in the LightningModule, as in ``net.features.*``.
        start: first epoch in which they are frozen, counted from 0.
        stop: the epoch from which on they are trained again; none if None.
    """

    def __init__(self, match: str, start: int = 0, stop: int | None = None) -> None:
        try:
            self.pattern = re.compile(match)
        except re.error as error:
            raise ValueError(f"match must be a regular expression, got {match!r} ({error})") from None
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"start must be at least 0 and stop greater than start, got {start} and {stop}")
        self.start, self.stop = start, stop
        self.params: set[nn.Parameter] = set()
        self.norms: list[nn.Module] = []
        self.all: list[Freeze] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        named = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        self.params = {p for name, p in named.items() if self.pattern.fullmatch(name)}
        self.all = [callback for callback in trainer.callbacks if isinstance(callback, Freeze)]  # type: ignore[attr-defined]
        if not self.params:
            near = ", ".join(difflib.get_close_matches(self.pattern.pattern, named, n=3, cutoff=0))
            raise UserError(f"match of Freeze: {self.pattern.pattern!r} is no trained parameter; nearest are {near}")
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise UserError("Freeze in several processes needs --trainer.strategy=ddp_find_unused_parameters_true")
        for epoch in {each.start for each in self.all}:
            if all(self.holds(p, epoch) for p in named.values()):
                raise UserError(f"match of Freeze: {self.pattern.pattern!r} leaves nothing to train in epoch {epoch}")
        norms = (module for module in pl_module.modules() if hasattr(module, "running_mean"))
        self.norms = [norm for norm in norms if self.params.intersection(norm.parameters(recurse=False))]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.begin(trainer.current_epoch)

    on_train_start = on_train_epoch_start  # a run that goes on amid an epoch does not start it

    def begin(self, epoch: int) -> None:
        """Freeze, or train again, as an epoch wants it."""
        for p in self.params:
            p.requires_grad_(not self.holds(p, epoch))
        for norm in self.norms:
            norm.train(any(p.requires_grad for p in norm.parameters(recurse=False)))

    def holds(self, p: nn.Parameter, epoch: int) -> bool:
        """Tell whether this or another Freeze wants a parameter frozen."""
        wanting = (each for each in self.all if epoch >= each.start and (each.stop is None or epoch < each.stop))
        return any(p in each.params for each in wanting)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        for p in self.params:
            p.requires_grad_(True)
        self.params, self.norms, self.all = set(), [], []
