"""Gradients of penalties agree with closed forms, and gradient descent reaches their minima."""

import pytest
import torch
from torch import nn

from src import UserError
from src.losses import L1, L2, Orthogonal
from src.losses.penalties import Penalty


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5))


def gradients(penalty: Penalty, net: nn.Module) -> dict[str, torch.Tensor | None]:
    net.zero_grad()
    penalty(net).backward()
    return {name: p.grad for name, p in net.named_parameters()}


def gram_gradient(weight: torch.Tensor) -> torch.Tensor:
    rows = weight.flatten(1)
    return (4 * (rows @ rows.T - torch.eye(len(rows))) @ rows).view_as(weight)


@pytest.mark.parametrize(
    ("penalty", "gradient"),
    [(L1(0.3), torch.sign), (L2(0.3), lambda weight: weight), (Orthogonal(0.3), gram_gradient)],
)
def test_only_weights_get_gradients_and_these_agree_with_closed_forms(penalty, gradient):
    net = small_net().requires_grad_()
    grads = gradients(penalty, net)
    assert {name for name, grad in grads.items() if grad is not None} == {"0.weight", "3.weight"}
    for name in ("0.weight", "3.weight"):
        torch.testing.assert_close(grads[name], 0.3 * gradient(net.get_parameter(name).detach()))


def test_a_penalty_sums_over_all_weights():
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False))
    net[0].weight.data = torch.tensor([[1.0, -2.0], [0.0, 3.0], [0.0, 0.0]])
    net[1].weight.data = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert L1(0.5)(net).item() == 0.5 * (6 + 3)
    assert L2(0.5)(net).item() == 0.25 * (14 + 5)
    assert Orthogonal(0.5)(net).item() == 0.5 * (0 + 2 * 2**2 + 12**2 + (4 - 1) ** 2)


def test_both_gram_matrices_give_the_same_gradient():
    tall = nn.Linear(3, 7, bias=False)  # the 3 x 3 Gram matrix is the smaller one
    torch.testing.assert_close(gradients(Orthogonal(1), tall)["weight"], gram_gradient(tall.weight.detach()))


def test_l2_equals_weight_decay_of_sgd():
    ours, theirs = small_net(), small_net()
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(8, 2, 3, 3)
    weights = [p for p in theirs.parameters() if p.ndim > 1]
    others = [p for p in theirs.parameters() if p.ndim <= 1]
    decayed = torch.optim.SGD([{"params": weights, "weight_decay": 0.1}, {"params": others}], lr=0.1)
    plain = torch.optim.SGD(ours.parameters(), lr=0.1)
    for _ in range(3):
        for net, optimizer, penalty in ((ours, plain, L2(0.1)), (theirs, decayed, lambda _: 0)):
            optimizer.zero_grad()
            (net(inputs).square().mean() + penalty(net)).backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def descend(penalty: Penalty, net: nn.Module, lr: float, steps: int) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        penalty(net).backward()
        optimizer.step()


def test_l1_drives_weights_to_zero():
    net = nn.Linear(10, 10)
    before = net.weight.abs().sum()
    descend(L1(1), net, lr=0.01, steps=50)
    assert net.weight.abs().max() <= 0.01
    assert net.weight.abs().sum() < before / 10


@pytest.mark.parametrize("net", [nn.Linear(6, 4), nn.Linear(4, 6), nn.Conv2d(3, 5, 2)], ids=repr)
def test_the_orthogonal_penalty_drives_singular_values_to_one(net):
    assert (torch.linalg.svdvals(net.weight.flatten(1)) - 1).abs().max() > 0.1
    descend(Orthogonal(1), net, lr=0.05, steps=200)
    rows = net.weight.detach().flatten(1)
    rows = rows if len(rows) <= rows.shape[1] else rows.T
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)))


@pytest.mark.parametrize("penalty", [L1(0.3), L2(0.3), Orthogonal(0.3)])
def test_gradients_agree_with_finite_differences(penalty):
    class Net(nn.Module):
        def __init__(self, *weights: torch.Tensor) -> None:
            super().__init__()
            self.weights = weights

        def named_parameters(self, *args, **kwargs):  # noqa: ARG002
            return ((str(i), weight) for i, weight in enumerate(self.weights))

    weights = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in ((3, 2, 1, 2), (4, 3))]
    assert torch.autograd.gradcheck(lambda *weights: penalty(Net(*weights)), weights)


def test_match_selects_weights_by_their_full_name():
    net = small_net()
    assert L1(1, match="0.*")(net).equal(net[0].weight.abs().sum())
    assert L1(1, match=r"(0|3)\.weight")(net).equal(L1(1)(net))
    with pytest.raises(UserError, match=r"match must match the full name of a weight \(0.weight, 3.weight\), got '3'"):
        L1(1, match="3")(net)


def test_frozen_weights_are_not_penalized():
    net = small_net()
    net[0].requires_grad_(False)
    assert L1(1)(net).equal(net[3].weight.abs().sum())


def test_shared_weights_count_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert L1(1)(net).equal(net[0].weight.abs().sum())


@pytest.mark.parametrize("kind", [L1, L2, Orthogonal])
def test_autocast_does_not_change_the_value(kind):
    net = small_net()
    with torch.autocast("cpu", torch.bfloat16):
        value = kind(1)(net)
    assert value.equal(kind(1)(net))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1}, "weight must be at least 0, got -1"),
        ({"weight": float("nan")}, "weight must be at least 0, got nan"),
        ({"weight": 1, "match": "("}, r"match must be a regular expression, got '\('"),
    ],
)
def test_invalid_arguments_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        L1(**settings)
