"""Report: what a trial tells the pruner after each epoch."""

import math
from typing import Any

from lightning.pytorch import Callback
from optuna.trial import FrozenTrial, Trial

from src import require


class Report(Callback):
    """Report the metric of each epoch to the pruner, and stop the run if the pruner says so."""

    def __init__(self, trial: Trial, monitor: str, stored: FrozenTrial) -> None:
        self.trial, self.monitor = trial, monitor
        self.known, self.pruned = {*stored.intermediate_values}, "pruned" in stored.user_attrs  # by an interrupted run

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        require(trainer.world_size == 1, "search.prune needs trials of one process: set search.prune=none")
        trainer.should_stop = self.pruned

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        value, epoch = float(trainer.callback_metrics.get(self.monitor, math.nan)), trainer.current_epoch + 1
        if epoch not in self.known and math.isfinite(value):
            self.trial.report(value, epoch)
            if self.trial.should_prune():
                self.trial.set_user_attr("pruned", True)
                trainer.should_stop = True
