"""EMA and SWA: averages of the weights, validated and saved in place of the weights."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

from src import require


class Average(WeightAveraging):
    """Base: keep the average on the device of the weights, not on the CPU, and do not wait for it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.steps: int | None = None  # that the average spans; None before the first, since a checkpoint may know
        if stage == "fit":
            refuse_divided_weights(trainer, type(self).__name__)
        pl_module.to(trainer.strategy.root_device)
        super().setup(trainer, pl_module, stage)
        for each in vars(self).values():
            if isinstance(each, AveragedModel):
                each.update_parameters = partial(self.update, each)  # type: ignore[method-assign]

    def average(self, averages: list[Tensor], values: list[Tensor], steps: int) -> None:
        """Update the averages with the values after a number of steps."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, model: AveragedModel, module: LightningModule) -> None:
        """Do the same as ``AveragedModel.update_parameters``, which waits for a GPU in each step."""
        if self.steps is None:
            self.steps = int(model.n_averaged)
        averages, values = ([*each.parameters(), *each.buffers()] for each in (model.module, module))
        if self.steps:
            self.average(averages, values, self.steps)
        else:
            torch._foreach_copy_(averages, values)
        self.steps += 1
        model.n_averaged += 1


class EMA(Average):
    """Keep an exponential moving average of weights and batch-norm statistics, and validate and save it.

    It spans about the last 1 / (1 - decay) steps. After t steps the decay is (1 + t) / (10 + t) if that is smaller, as
    in tf.train.ExponentialMovingAverage, so that the initial weights do not dominate a short run.

    Args:
        decay: weight of the old average in each step, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        require(0 <= decay < 1, f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        super().__init__()

    def average(self, averages: list[Tensor], values: list[Tensor], steps: int) -> None:
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value.to(average.dtype), 1 - decay)
            else:
                average.copy_(value)


class SWA(Average):
    """Average the weights at the ends of the last epochs, and validate and save the mean.

    Stochastic weight averaging (arXiv:1803.05407); batch-norm statistics are averaged too. Until averaging starts, the
    weights themselves are validated and saved. Use a learning rate that stays high: no schedule, or one with a
    ``final_ratio`` of at least 0.1. Lightning's StochasticWeightAveraging validates and saves no mean during training.

    Args:
        start: progress of the run at which averaging starts, in [0, 1).
    """

    def __init__(self, start: float = 0.75) -> None:
        require(0 <= start < 1, f"start must be in [0, 1), got {start}")
        self.start, self.epochs, self.due = start, 0, False  # averaged epochs; whether this step ends another one
        super().__init__()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.due = trainer.is_last_batch and trainer.global_step > self.start * trainer.estimated_stepping_batches
        super().on_train_batch_end(trainer, *args)
        self.epochs += self.due

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:  # noqa: ARG002
        return step_idx is not None and (self.due or self.epochs == 0)

    def average(self, averages: list[Tensor], values: list[Tensor], steps: int) -> None:  # noqa: ARG002
        """Add the weights to the mean over epochs; before averaging starts, copy them."""
        for average, value in zip(averages, values, strict=True):
            average.copy_(get_swa_avg_fn()(average, value, self.epochs) if self.epochs else value)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.epochs = state_dict["epochs"]


def refuse_divided_weights(trainer: Trainer, callback: str) -> None:
    """Refuse strategies that divide weights among processes, such as FSDP2, for this callback."""
    divided = any(kind in type(trainer.strategy).__name__ for kind in ("FSDP", "ModelParallel", "DeepSpeed"))
    what = "whole weights and gradients, which sharded strategies do not have"
    require(not divided, f"{callback} needs {what}: remove the callback")
