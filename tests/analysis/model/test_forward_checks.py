"""Checks of the forward pass on nets without a training loop."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.analysis.model.forward_checks import deterministic, independent, train_and_eval
from src.analysis.model.spies import PROBABILITIES, Spy, problem_of
from src.analysis.model.subject import Subject, find_calls, pick
from tests.own_code import Pair


class Tokens(nn.Module):
    """A net for integers (N, L); ``over`` is the axis over which it averages."""

    def __init__(self, over: int = 1) -> None:
        super().__init__()
        self.embedding, self.head, self.over = nn.Embedding(9, 4), nn.Linear(4, 3), over

    def forward(self, tokens: Tensor) -> dict[str, Any]:
        x = self.embedding(tokens)
        return {"logits": self.head(x + x.mean(self.over, keepdim=True)), "past": None}


class NormAct(nn.BatchNorm1d):
    """Batch norm with an activation as its child, as in timm."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class Auxiliary(nn.Linear):
    """Returns a second output in train mode, as GoogLeNet does."""

    def forward(self, x: Tensor) -> Any:
        return (super().forward(x), x) if self.training else super().forward(x)


class Attention(nn.Module):
    """Dropout within a function, which reads ``self.training`` by design."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, self.training)


def subject(net: nn.Module, batch: Any) -> tuple[Subject, list[Any]]:
    s = Subject(net, batch, net, lambda _: None, nullcontext, [])
    return s, find_calls(net, lambda: net(batch))


def test_samples_of_integers_are_independent_unless_the_batch_is_averaged() -> None:
    tokens = torch.randint(9, (6, 5), generator=torch.Generator().manual_seed(0))
    assert independent(*subject(Tokens(), tokens)).ok is True
    result = independent(*subject(Tokens(over=0), tokens))
    assert result.ok is False
    assert result.figure == "3 other samples change 3 of 3 outputs of Tokens"


def test_equal_samples_cannot_tell_whether_they_are_independent() -> None:
    assert independent(*subject(Tokens(), torch.ones(6, 5, dtype=torch.long))).ok is None


def test_batch_norm_with_children_is_no_alarm() -> None:
    net = nn.Sequential(nn.Linear(3, 4), NormAct(4))
    assert train_and_eval(*subject(net, torch.rand(8, 3))).figure == "differ by 1 NormAct alone"


def test_outputs_of_train_mode_alone_are_no_alarm() -> None:
    result = train_and_eval(*subject(Auxiliary(3, 3), torch.rand(8, 3)))
    assert result.ok is None
    assert result.figure == "Auxiliary returns 2 tensors in train mode, 1 in eval"


def test_batch_norm_is_no_alarm() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2))
    net(torch.rand(50, 3))
    s, calls = subject(net, torch.rand(8, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert [check(s, calls).ok for check in (deterministic, independent, train_and_eval)] == [True] * 3
    assert train_and_eval(s, calls).figure == "differ by 1 BatchNorm1d, 1 Dropout alone"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_batch_norm_without_a_momentum_is_no_alarm() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Module())
    net[1].register_buffer("running_mean", torch.zeros(4))  # as the frozen one of torchvision
    net[1].forward = lambda x: x - net[1].running_mean
    assert train_and_eval(*subject(net, torch.rand(8, 3))).ok is True


def test_dropout_of_a_function_is_no_alarm() -> None:
    result = train_and_eval(*subject(nn.Sequential(nn.Linear(3, 4), Attention()), torch.rand(8, 3)))
    assert (result.ok, result.figure) == (True, "differ by random numbers alone")


def test_the_calls_of_a_step_are_the_outermost_ones() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    x = torch.rand(2, 3)
    assert [call.name for call in find_calls(net, lambda: net(x))] == ["Sequential"]
    assert [call.name for call in find_calls(net, lambda: net[1](net[0](x)))] == ["0", "1"]


def test_samples_of_any_batch_are_picked() -> None:
    x, index = torch.arange(3), torch.tensor([2, 0])
    assert pick(["a", "b", "c"], 3, index) == ["c", "a"]
    assert pick(Pair(x, [x, 7]), 3, index)[1][0].tolist() == [2, 0]
    assert pick((x[:2], {"x": x[:2]}), 2, index[[1, 1]])[0].tolist() == [0, 0]  # no list of two samples
    assert pick({"x": x, "scale": torch.ones(5)}, 3, index)["scale"].shape == (5,)


@pytest.mark.parametrize(
    ("loss", "given", "problem"),
    [
        ("cross_entropy", torch.randn(4, 3), ""),
        ("cross_entropy", torch.randn(4, 3).softmax(1), PROBABILITIES),
        ("cross_entropy", torch.randn(4, 3, 2, 2).softmax(1).bfloat16(), PROBABILITIES),
        ("cross_entropy", torch.zeros(4, 3), ""),
        ("log_softmax", torch.randn(4, 5, 3).softmax(2), ""),
        ("nll_loss", torch.randn(4, 3).log_softmax(1), ""),
        ("nll_loss", torch.randn(4, 3).softmax(1), "other numbers, but expects log-probabilities"),
        ("binary_cross_entropy_with_logits", torch.rand(4, 1, requires_grad=True) * 0.5, ""),
        ("binary_cross_entropy_with_logits", torch.randn(4, 1, requires_grad=True).sigmoid().half(), PROBABILITIES),
    ],
)  # fmt: skip
def test_the_inputs_of_losses_are_told_apart(loss: str, given: Tensor, problem: str) -> None:
    assert problem_of(loss, given, 1) == problem


def test_dead_units_are_counted_by_layer() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.copy_(torch.tensor([0.0, -100, 1, -100]))
    with Spy(net) as spy:
        net(torch.rand(3, 1, 2, 2)).relu()
    assert spy.dead[0] == ("1", 0.5, 4)
    assert [name for name, _, _ in spy.dead] == ["1", ""]
