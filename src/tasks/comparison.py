"""Comparison: an ensemble of tasks and each of its members, evaluated on the same samples."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import CatMetric

from src.protocols import ImageData
from src.tasks.ensemble import Ensemble
from src.tasks.metrics import flatten_per_class
from src.tasks.scores import value_per_sample


class Comparison(Ensemble):
    """Test an ensemble, and compute the metric that its tasks monitor for each of them; validation keeps predictions.

    Args:
        args: see ``src.tasks.ensemble.Ensemble``.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.metric = self.averaged.monitor[0].removeprefix("val/")
        tasks = (*self.members, self.averaged)
        self.scores: Any = nn.ModuleList(self.averaged.test_metrics[self.metric].clone() for _ in tasks)
        self.values, self.soft, self.targets = (CatMetric(nan_strategy="disable") for _ in range(3))

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
