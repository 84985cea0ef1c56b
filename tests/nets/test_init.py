"""Initial weights have the std of their papers, and biases the configured value."""

import math

import pytest
import torch
from torch import nn

from src import UserError
from src.nets import Init, SmallCNN


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.Flatten(), nn.Linear(200, 300))
    return net.requires_grad_(False)


FAN_IN, FAN_OUT = (16 * 9, 200), (32 * 9, 300)


@pytest.mark.parametrize(
    ("init", "std"),
    [
        (Init(), [math.sqrt(2 / fan) for fan in FAN_IN]),
        (Init(nn.init.kaiming_uniform_), [math.sqrt(2 / fan) for fan in FAN_IN]),
        (Init(nn.init.xavier_normal_), [math.sqrt(2 / (i + o)) for i, o in zip(FAN_IN, FAN_OUT, strict=True)]),
        (Init(nn.init.xavier_uniform_), [math.sqrt(2 / (i + o)) for i, o in zip(FAN_IN, FAN_OUT, strict=True)]),
        (Init(nn.init.normal_, {"std": 0.03}), [0.03, 0.03]),
        (Init(nn.init.trunc_normal_, {"std": 0.02, "a": -0.04, "b": 0.04}), [0.88 * 0.02] * 2),
    ],
)
def test_weights_have_the_std_of_their_formula(init, std):
    net = layers()
    init(net)
    assert [float(net[i].weight.std()) for i in (0, 3)] == pytest.approx(std, rel=0.03)
    assert [float(net[i].weight.mean()) for i in (0, 3)] == pytest.approx([0, 0], abs=0.005)
    assert not net[0].bias.any()
    assert not net[3].bias.any()
    assert net[1].weight.eq(1).all()


def test_orthogonal_weights_are_orthogonal():
    net = layers()
    Init(nn.init.orthogonal_)(net)
    for weight in (net[0].weight.flatten(1), net[3].weight.T):
        torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), atol=1e-5, rtol=0)


def test_biases_are_set_and_other_layers_do_not_change():
    net = layers()
    before = net[0].weight.clone()
    Init(nn.init.zeros_, bias=0.25, match="3")(net)
    assert net[3].bias.eq(0.25).all()
    assert not net[3].weight.any()
    assert net[0].weight.equal(before)


def test_a_match_without_a_layer_is_rejected():
    with pytest.raises(UserError, match=r"init: match 'haed' matches no layer; the net has .*head"):
        Init(match="haed")(SmallCNN(3))


def test_settings_unknown_to_the_function_are_rejected():
    with pytest.raises(ValueError, match=r"settings must be arguments of normal_: got an unexpected.*'sdt'"):
        Init(nn.init.normal_, {"sdt": 1.0})
