"""TrialSteps: training steps on chosen batches, with the Trainer's own machinery, instead of a training run."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.trainer import call
from torch import Tensor


class TrialsDone(Exception):  # noqa: N818
    """Ends training without the hooks at the end of an epoch or a run, which expect a trained module."""


class TrialSteps(Callback):
    """Call ``trials`` with this callback before the first training batch, then end the run.

    Device, precision, strategy, callbacks and hooks are those of a run. ``first`` is its first batch.
    """

    def __init__(self, trials: Callable[["TrialSteps"], None]) -> None:
        self.trials = trials
        self.first: Any = None

    def run(self, trainer: Trainer, module: LightningModule, data: LightningDataModule | None) -> None:
        trainer.callbacks.append(self)  # type: ignore[attr-defined]
        with suppress(TrialsDone):
            trainer.fit(module, datamodule=data)

    def on_train_batch_start(self, trainer: Any, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.trainer, self.module, self.first = trainer, pl_module, batch
        self.trials(self)
        raise TrialsDone

    def loss(self, batch: Any) -> Tensor | None:
        """Return the loss of ``training_step``, with its graph; None if the step returns none."""
        output = call._call_strategy_hook(self.trainer, "training_step", *self.arguments(batch).values())
        return output["loss"] if isinstance(output, Mapping) else output

    def step(self, batch: Any) -> float | None:
        """Take one optimizer step and return the loss, None if the step returns none."""
        loop = self.trainer.fit_loop.epoch_loop
        if self.module.automatic_optimization:
            output = loop.automatic_optimization.run(self.trainer.optimizers[0], 0, self.arguments(batch))
        else:
            output = loop.manual_optimization.run(self.arguments(batch))
        loss = output.get("loss")
        return None if loss is None else float(loss)

    def arguments(self, batch: Any) -> OrderedDict[str, Any]:
        return self.trainer.fit_loop.epoch_loop._build_kwargs(OrderedDict(), batch, 0)

    def next_batch(self, again: bool = False) -> Any:
        """Return the next training batch on the device; at the end of the epoch None, or the first ``again``."""
        trainer: Any = self.trainer
        fetcher = trainer.fit_loop._data_fetcher
        if fetcher.done and again:
            iter(fetcher)
        try:
            batch, _, _ = next(fetcher)
        except StopIteration:
            return None
        batch = self.module._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), dataloader_idx=0)
        return call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)

    def context(self) -> AbstractContextManager[Any]:
        """Return the precision's context of a forward pass."""
        return self.trainer.precision_plugin.forward_context()
