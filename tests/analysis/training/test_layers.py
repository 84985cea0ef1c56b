"""The rules about layers hold where a fault is planted, and say which figure they found."""

from typing import Any

import pytest
import torch
from torch import nn

from src import UserError
from src.analysis.training.layers import History, Measured, find_layers, output_statistics

NET = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()), nn.Flatten(), nn.Dropout())


def healthy(**changes: Any) -> Measured:
    return Measured(**({"gradient": 1.0, "weight": 1.0, "update": 1e-3, "size": 4, "matrix": True} | changes))


def kinds(history: History, times: int = 1, **changes: Any) -> list[str]:
    """Return what is found of a layer at the last of several equal measurements, next to a healthy one."""
    for _ in range(times):
        found = history.faults({"a": healthy(**changes), "b": healthy()})
    assert {layer for _, layer in found} <= {"a"}
    return [kind for kind, _ in found]


def test_layers_are_those_with_weights_and_activations_or_those_that_match() -> None:
    assert [*find_layers(NET)] == ["0", "1.0", "1.1"]
    assert [*find_layers(NET, r"1|2")] == ["1", "2"]
    with pytest.raises(UserError, match=r"layers 'conv' matches no layer; closest: "):
        find_layers(NET, "conv")


@pytest.mark.parametrize(("net", "low", "high"), [(nn.Tanh(), -1, 1), (nn.Sigmoid(), 0, 1), (nn.Hardsigmoid(), 0, 1)])
def test_values_near_a_limit_are_saturated(net: nn.Module, low: float, high: float) -> None:
    x = torch.tensor([[low, low + 0.01 * (high - low), (low + high) / 2, high - 0.02 * (high - low)]])
    moments, live, saturated = output_statistics(net, x)
    assert saturated.item() == 0.5
    assert moments.tolist() == pytest.approx([x.mean().item(), x.std(correction=0).item()])
    assert live.tolist() == (x != 0).sum(0).tolist()


def test_units_are_channels_of_images_and_the_last_dimension_of_others() -> None:
    images, tokens = torch.ones(3, 2, 4, 4), torch.ones(3, 4, 5)
    images[:, 0], tokens[..., 1:] = 0, 0
    assert output_statistics(nn.ReLU(), images)[1].tolist() == [0, 48]
    assert output_statistics(nn.ReLU(), tokens)[1].tolist() == [12, 0, 0, 0, 0]


def test_units_are_dead_that_stay_silent() -> None:
    history = History()
    most, half = torch.arange(20) < 18, torch.arange(20) < 10
    assert kinds(history, 2, silent=most) == []
    assert kinds(history, silent=most) == ["dead"]  # 90 % for 3 measurements
    assert kinds(history, silent=~most) == []
    assert kinds(history, 9, silent=half) == []
    assert kinds(history, silent=half) == ["dead"]  # 50 % for 10


def test_hidden_layers_are_saturated_but_predictions_may_be() -> None:
    assert kinds(History(), 2, saturation=0.95) == []
    assert kinds(History(), 3, saturation=0.95) == ["saturated"]
    assert kinds(History(), 9, saturation=0.85) == []
    history = History()
    assert not any(history.faults({"a": healthy(saturation=1.0)}, output="a") for _ in range(9))


def test_a_gradient_vanishes_against_its_history_or_the_other_layers() -> None:
    history = History()
    assert kinds(history, 5) == []
    assert kinds(history, 2, gradient=1e-5) == []
    assert kinds(history, gradient=1e-5) == ["vanishing"]
    assert kinds(History(), 3, gradient=1e-6) == ["vanishing"]  # from the first step on
    assert kinds(History(), 3, gradient=0.0) == ["vanishing"]


def test_no_gradient_anywhere_and_a_falling_one_are_no_faults() -> None:
    history = History()
    for step in range(60):  # as of a net that learns its training set
        assert history.faults({"a": healthy(gradient=0.6**step), "b": healthy(gradient=0.6**step)}) == {}
    for _ in range(9):  # as of a hinge loss that is 0
        assert history.faults({"a": healthy(gradient=0.0), "b": healthy(gradient=0.0)}) == {}


def test_a_gradient_explodes_against_its_history() -> None:
    history = History()
    assert kinds(history, 3) == []
    assert kinds(history, gradient=19.0) == []
    assert kinds(history, gradient=300.0) == []
    assert kinds(history, gradient=9000.0) == ["exploding"]
    assert kinds(history, gradient=float("inf")) == []  # SkipNonFinite reports it
    assert kinds(history, gradient=float("nan")) == []


def test_updates_are_too_large_or_too_small_for_the_weights() -> None:
    assert kinds(History(), 9, update=0.9) == []
    assert kinds(History(), 2, update=1.1) == []
    assert kinds(History(), 3, update=1.1) == ["fast"]
    assert kinds(History(), 3, update=1e-7) == ["slow"]
    assert kinds(History(), 3, update=1.1, matrix=False) == []  # a bias that starts at 0
    history = History()
    assert kinds(history, 1) == []
    assert kinds(history, 9, update=0.0) == []  # a schedule ends at 0
