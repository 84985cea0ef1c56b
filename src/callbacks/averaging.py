"""EMA and SWA: averages of the weights of a run, which are validated and saved in place of the weights."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """An exponential moving average of weights and batch-norm statistics, over about the last 1 / (1 - decay) steps.

    After t steps it decays by (1 + t) / (10 + t) where that is less, so that a short run is not held back by its
    beginnings, as it is in Lightning's EMAWeightAveraging; TensorFlow's tf.train.ExponentialMovingAverage.

    Args:
        decay: what the average keeps of itself in each step, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        super().__init__(multi_avg_fn=self.average)

    def average(self, averages: list[Tensor], values: list[Tensor], steps: Tensor) -> None:
        """Move the averages towards the values after a number of steps that is a tensor, to spare a GPU the wait."""
        kept = ((1 + steps) / (10 + steps)).clamp(max=self.decay)
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, (1 - kept).to(average.dtype))
            else:
                average.copy_(value)


class SWA(WeightAveraging):
    """The mean of the weights at the ends of the last epochs (stochastic weight averaging, arXiv:1803.05407).

    Batch-norm statistics are averaged too. Until it begins, the weights themselves are validated and saved. Goes with
    a learning rate that stays high: no schedule, or one with a ``final`` of 0.1 or more. Lightning's
    StochasticWeightAveraging neither validates nor saves the averages before the run is over.

    Args:
        start: share of the epochs that are over when it begins, in [0, 1).
    """

    def __init__(self, start: float = 0.75) -> None:
        if not 0 <= start < 1:
            raise ValueError(f"start must be in [0, 1), got {start}")
        self.start = start
        super().__init__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        if trainer.is_last_batch:  # before the validation that follows
            average: Any = self._average_model
            if trainer.current_epoch < self.start * max(1, trainer.max_epochs or 1):
                average.n_averaged.zero_()  # the next value takes the place of the average
            average.update_parameters(pl_module)
