"""Ensemble: the average of what several trained modules predict."""

from copy import deepcopy
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.plugins import Precision
from torch import Tensor, nn
from torchmetrics import CatMetric

from src import require
from src.metrics import flatten_per_class
from src.protocols import DrawsPredictions, ImageData
from src.tasks.base import Task
from src.tasks.scores import value_per_sample


class Ensemble(LightningModule):
    """Average the probabilities or numbers that tasks predict, or the outputs of other modules.

    Each member keeps its own precision and test-time augmentation. The threshold of a class is the mean over members,
    so it decides by the mean of their margins. Test also computes the metric that the first member monitors for each
    member; validation keeps the predictions of each.

    Args:
        members: modules trained on the same data: tasks that are ``Averageable``, or others, which can only predict.
        precisions: Lightning's precision plugin of each member.
        weights: of each member in the average; they sum to 1.
        data_state: state of the data module in the members' checkpoints, with which it refuses other data.
    """

    def __init__(
        self, members: list[Any], precisions: list[Precision], weights: list[float], data_state: Any = None
    ) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(members)
        self.precisions, self.weights, self.data_state = precisions, weights, data_state
        first = members[0]
        if isinstance(first, DrawsPredictions):
            self.draw_predictions = first.draw_predictions
        if isinstance(first, Task):
            # the first task with mean thresholds, which compares and decides; it needs no net
            self.averaged: Any = deepcopy(first, {id(first.net): nn.Identity()})
            average_state(self.averaged, members, weights)
            self.metric = first.monitor[0].removeprefix("val/")
            self.scores: Any = nn.ModuleList(first.test_metrics[self.metric].clone() for _ in range(len(members) + 1))
            self.values, self.soft, self.targets = (CatMetric(nan_strategy="disable") for _ in range(3))

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

    def test_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        inputs, targets = batch
        each = self.predict_each(inputs)
        pairs = zip((*self.members, self.averaged), (*each, self.average(each)), strict=True)
        compared = [task.compare(soft, targets) for task, soft in pairs]
        for score, pair in zip(self.scores, compared, strict=True):
            score.update(*pair)
        self.averaged.test_metrics.update(*compared[-1])
        values: list[Any] = [value_per_sample(self.scores[0], *pair) for pair in compared]
        if values[0] is not None:
            self.values.update(torch.stack(values, 1))

    def on_test_epoch_end(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        names = data.class_names if isinstance(data, ImageData) else None
        self.log_dict(flatten_per_class(self.averaged.test_metrics.compute(), names), sync_dist=True)
        self.results = [float(score.compute()) for score in self.scores]  # of each member, then of the average
        self.paired = self.values.compute() if self.values.update_called else None  # of each sample, (N, members + 1)

    def validation_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        self.soft.update(torch.stack(self.predict_each(batch[0]), 1))
        self.targets.update(batch[1])
        self.dtype_of_targets = batch[1].dtype

    def on_validation_epoch_end(self) -> None:
        targets = self.targets.compute().to(self.dtype_of_targets)
        self.kept = self.soft.compute().cpu(), targets.cpu()  # (N, members, ...) and (N, ...)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        several = len(self.trainer.num_predict_batches) > 1
        soft = self.average(self.predict_each(batch, batch_idx, *([dataloader_idx] if several else [])))
        return self.averaged.decide(soft) if isinstance(self.members[0], Task) else soft


@torch.no_grad()
def average_state(task: nn.Module, members: list[nn.Module], weights: list[float]) -> None:
    """Set parameters and buffers to the weighted mean over members; integers, such as counters, stay the task's own."""
    states = [member.state_dict() for member in members]
    for name, value in task.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and all(name in state for state in states):
            mean = sum(weight * state[name].double() for weight, state in zip(weights, states, strict=True) if weight)
            value.copy_(mean)
