"""EMA and SWA: averages of the weights of a run, which are validated and saved in place of the weights."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class Average(WeightAveraging):
    """An average that lies where the weights do; Lightning's is made before they are moved, and so lies on the CPU."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


class EMA(Average):
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
                average.lerp_(value.to(average.dtype), (1 - kept).to(average.dtype))
            else:
                average.copy_(value)


class SWA(Average):
    """The mean of the weights at the ends of the last epochs (stochastic weight averaging, arXiv:1803.05407).

    Batch-norm statistics are averaged too. Until it begins, the weights themselves are validated and saved. Goes with
    a learning rate that stays high: no schedule, or one with a ``final`` of 0.1 or more. Lightning's
    StochasticWeightAveraging neither validates nor saves the averages before the run is over.

    Args:
        start: share of the run that is over when it begins, in [0, 1).
    """

    def __init__(self, start: float = 0.75) -> None:
        if not 0 <= start < 1:
            raise ValueError(f"start must be in [0, 1), got {start}")
        self.start, self.begun = start, False
        super().__init__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        average: Any = self._average_model
        if not self.begun:
            average.n_averaged.zero_()  # so that the weights take its place
        due = trainer.is_last_batch and trainer.global_step > self.start * trainer.estimated_stepping_batches
        if due or not self.begun:
            average.update_parameters(pl_module)
        self.begun |= due

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"begun": self.begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.begun = state_dict["begun"]
