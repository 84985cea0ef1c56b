"""Ensemble: the average of what several trained modules predict."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from src import require
from src.protocols import Averageable, DrawsPredictions
from src.tasks.base import Task


class Ensemble(LightningModule):
    """Average the probabilities or numbers that tasks predict, or the outputs of other modules, each in its precision.

    Args:
        members: modules trained on the same data: tasks that are ``Averageable``, or others.
        precisions: Lightning's precision plugin of each member.
        weights: of each member in the average; they sum to 1.
        averaged: a member with the mean thresholds of all, which turns the average into predictions; it needs no net.
        data_state: state of the data module in the members' checkpoints, with which it refuses other data.
    """

    def __init__(
        self, members: list[Any], precisions: list[Any], weights: list[float], averaged: Any, data_state: Any = None
    ) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(members)
        self.averaged: Any = averaged
        self.precisions, self.weights, self.data_state = precisions, weights, data_state
        if isinstance(averaged, DrawsPredictions):
            self.draw_predictions = averaged.draw_predictions

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is not None and self.data_state is not None:
            data.load_state_dict(self.data_state)
        for member in self.members:
            member.trainer = self.trainer
            member.setup(stage)

    def teardown(self, stage: str) -> None:
        for member in self.members:
            member.teardown(stage)

    def predict_each(self, batch: Any, *position: int) -> list[Tensor]:
        """Return what is averaged, of each member; ``position`` are the indices of batch and loader."""
        found: list[Any] = []
        for member, precision in zip(self.members, self.precisions, strict=True):
            with precision.forward_context():
                inputs = precision.convert_input(batch)
                task = isinstance(member, Task)
                found.append(member.soft_predictions(inputs) if task else member.predict_step(inputs, *position))
        shapes = [str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in found]
        averageable = len({*shapes}) == 1 and all(isinstance(x, Tensor) and x.is_floating_point() for x in found)
        require(averageable, f"an ensemble needs tensors of floats and of equal shape, got {', '.join(shapes)}")
        return found

    def average(self, each: list[Tensor]) -> Tensor:
        return torch.stack([weight * x for weight, x in zip(self.weights, each, strict=True) if weight]).sum(0)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        several = len(self.trainer.num_predict_batches) > 1
        soft = self.average(self.predict_each(batch, batch_idx, *([dataloader_idx] if several else [])))
        return self.averaged.decide(soft) if isinstance(self.averaged, Averageable) else soft
