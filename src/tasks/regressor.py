"""Regressor: one or several numbers for each input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from src import at_least_float32, require
from src.losses import LogError
from src.protocols import ImageData
from src.tasks.base import Task
from src.tasks.scores import regression_metrics
from src.tasks.setup import NetFactory, build_net, check_net
from src.tasks.targets import check_numbers


class Regressor(Task):
    """One number for each input, targets (N,), or D numbers, (N, D). Predictions and metrics are in their units.

    Args:
        net: class or function of a net that maps inputs to (N, D).
        num_outputs: number D of targets of each input.
        loss: function or module of outputs and targets of equal shape, such as torch.nn.HuberLoss.
        standardize: whether the net learns targets scaled to mean 0 and standard deviation 1, each of the D by itself,
            as measured on the training split; the loss is then in these units.
        kwargs: see ``src.tasks.Task``: optimizer, schedule, warmup_steps and more.
    """

    monitor, predicts = ("val/mae", "min"), "numbers"
    target_mean: Tensor  # of the training split, (D,); 0 if targets are not standardized
    target_std: Tensor

    def __init__(
        self,
        net: NetFactory | Callable[[int], nn.Module],
        num_outputs: int = 1,
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] = mse_loss,
        standardize: bool = True,
        **kwargs: Any,
    ) -> None:
        require(num_outputs >= 1, f"num_outputs must be at least 1, got {num_outputs}")
        relative = isinstance(loss, LogError)
        require(not (relative and standardize), "LogError needs targets in their own units: set standardize to false")
        val, test = (regression_metrics() for _ in range(2))
        super().__init__(net=build_net(net, num_outputs), val_metrics=val, test_metrics=test, **kwargs)
        self.num_outputs, self.loss, self.standardize = num_outputs, loss, standardize
        self.register_buffer("target_mean", torch.zeros(num_outputs))
        self.register_buffer("target_std", torch.ones(num_outputs))

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        check_numbers(self)
        check_net(self.net, data, self.num_outputs)
        super().setup(stage)
        if stage == "fit" and self.standardize and isinstance(data, ImageData):
            train = data.splits["train"]
            std, mean = torch.std_mean(train.targets[train.index].double().view(len(train), -1), 0, correction=0)
            self.target_mean.copy_(mean)
            self.target_std.copy_(std.where(std > 1e-9 * mean.abs(), 1))

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = batch
        outputs = at_least_float32(self(inputs)).view_as(targets)
        loss = self.loss(outputs, (targets - self.target_mean) / self.target_std)
        return loss, outputs.detach() * self.target_std + self.target_mean, targets

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the predicted numbers, (N,), or (N, D) where D is more than 1."""
        return self.decide(self.soft_predictions(batch))

    def soft_predictions(self, inputs: Tensor) -> Tensor:
        return at_least_float32(self(inputs)) * self.target_std + self.target_mean

    def compare(self, soft: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return soft.view_as(targets), targets

    def decide(self, soft: Tensor) -> Tensor:
        return soft[:, 0] if self.num_outputs == 1 else soft
