"""The cost of a step: bytes counted by hand, times of a given length."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from src.analysis.model.cost import clock, memory_by_batch
from src.analysis.model.spies import SavedBytes
from src.analysis.model.subject import Subject


def test_saved_bytes_are_those_that_backward_needs() -> None:
    net, x = nn.Linear(10, 20), torch.rand(8, 10)
    # the linear layer keeps its input, the sigmoid its output; the sum keeps nothing, parameters are not counted
    assert SavedBytes(net).of(lambda: net(x).sigmoid().sum()) == 4 * 8 * (10 + 20)


def test_memory_is_linear_in_the_batch_size() -> None:
    net = nn.Sequential(nn.Linear(10, 20), nn.Sigmoid())
    optimizer = torch.optim.Adam(net.parameters())

    def step(batch: torch.Tensor) -> float:
        optimizer.zero_grad()
        loss = net(batch).sum()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    s = Subject(net, torch.rand(8, 10), lambda batch: net(batch).sum(), step, nullcontext, [optimizer])
    before = [p.detach().clone() for p in net.parameters()]
    fixed, each = memory_by_batch(s)
    assert each == pytest.approx(1.1 * 4 * (10 + 20))
    assert fixed == 4 * 4 * 220 + 2 * 4  # parameters, gradients, two averages, and the step counters of Adam
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert not optimizer.state


def test_a_length_is_told_in_hours_and_minutes() -> None:
    assert clock(59.6) == "1 min 00 s"
    assert clock(5) == "0 min 05 s"
    assert clock(3600 * 30 + 125) == "30 h 02 min"
