"""Processes and accumulated batches count by the denominators of their losses; integers are averaged exactly."""

from types import SimpleNamespace

import pytest
import torch

from src.engine.loss_weighting import LossWeighting, average_exactly
from tools.exactness import cells, compare


@pytest.mark.parametrize("loss", ["class weights", "ignore_index", "sum"])
def test_accumulated_micro_batches_give_the_gradients_of_whole_batches(loss: str) -> None:
    assert max(compare(loss, 1, 4, 2).values()) < 1e-6


@pytest.mark.heavy
def test_two_processes_with_uneven_batches_compute_what_one_does() -> None:
    rows = list(cells(2, ["smoothing", "sum"]))
    assert len(rows) == 8
    assert max(max(row.values()) for *_, row in rows) < 1e-6


class Strategy:
    """Averages two processes in place, as torch.distributed does: integers lose their fraction."""

    def reduce(self, tensor: torch.Tensor, group: object = None, reduce_op: str = "mean") -> torch.Tensor:  # noqa: ARG002
        total = tensor + tensor - 1
        return total if reduce_op == "sum" else (total / 2).to(tensor.dtype)


def test_the_mean_of_integers_keeps_its_fraction() -> None:
    strategy = Strategy()
    assert strategy.reduce(torch.tensor(19)) == 18
    average_exactly(strategy)
    assert strategy.reduce(torch.tensor(19)) == 18.5
    assert strategy.reduce(torch.tensor(19.0)) == 18.5
    assert strategy.reduce(torch.tensor(19), reduce_op="sum").dtype == torch.int64


def test_batches_without_any_counted_target_change_nothing() -> None:
    callback, p = LossWeighting(), torch.nn.Parameter(torch.ones(2))
    callback.ranks, callback.accumulate, callback.is_sum, callback.reference = 1, 2, False, 1.0
    callback.total, p.grad = torch.zeros(()), torch.zeros(2)
    callback.on_before_optimizer_step(None, None, SimpleNamespace(param_groups=[{"params": [p]}]))  # type: ignore[arg-type]
    assert p.grad.tolist() == [0, 0]
