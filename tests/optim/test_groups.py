"""Weight decay and settings reach the right parameters, and a rule without effect is refused."""

import re

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from src import UserError
from src.nets import SmallCNN
from src.optim import MuonSGD, param_groups
from src.optim.groups import check_settings

LR = 0.2


def settings(net: nn.Module, optimizer: torch.optim.Optimizer, *keys: str) -> dict[str, tuple]:
    """Return settings by the name of the parameter, each of which must be there once."""
    names = {p: name for name, p in net.named_parameters()}
    pairs = [(names[p], tuple(group[key] for key in keys)) for group in optimizer.param_groups for p in group["params"]]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_biases_and_norms_are_spared_weight_decay_and_each_parameter_is_there_once():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[4].weight = net[3].weight  # shared
    net[0].bias.requires_grad_(False)
    decayed, exempt = SGD(param_groups(net), lr=LR, weight_decay=0.1).param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0)
    assert set(decayed["params"]) == {net[0].weight, net[3].weight}
    given = decayed["params"] + exempt["params"]
    assert len(given) == len(set(given))
    assert set(given) == {p for p in net.parameters() if p.requires_grad}


def test_a_group_without_parameters_is_left_out():
    assert [len(group["params"]) for group in param_groups(nn.Linear(2, 2, bias=False))] == [1]


def test_lazy_weights_are_decayed_and_lazy_biases_are_not():
    net = nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(2))
    found = settings(net, SGD(param_groups(net), lr=LR, weight_decay=0.1), "weight_decay")
    assert {name for name, (decay,) in found.items() if decay} == {"0.weight", "2.weight"}


def test_a_rule_sets_what_it_names_and_spares_biases_decay():
    net = SmallCNN(10, width=2)
    rules = [{"match": "head.*", "lr": 0.01}, {"match": r"features\.0\..*", "weight_decay": 0.5, "momentum": 0.3}]
    found = settings(net, SGD(param_groups(net, rules), LR, 0.9, weight_decay=0.1), "lr", "momentum", "weight_decay")
    for name, values in found.items():
        decay = 0.1 if dict(net.named_parameters())[name].ndim > 1 else 0.0
        if name.startswith("head"):
            assert values == (0.01, 0.9, decay)
        elif name.startswith("features.0."):
            assert values == (LR, 0.3, 0.5)
        else:
            assert values == (LR, 0.9, decay)
    assert len(found) == len(list(net.parameters()))


def test_the_first_rule_that_matches_decides_and_a_name_is_matched_whole():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    rules = [{"match": "0.weight", "lr": 1.0}, {"match": "0.*", "lr": 2.0}, {"match": "1.bia.", "lr": 3.0}]
    found = settings(net, SGD(param_groups(net, rules), lr=LR), "lr")
    assert found == {"0.weight": (1.0,), "0.bias": (2.0,), "1.weight": (LR,), "1.bias": (3.0,)}


def test_parameters_without_a_rule_come_first():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    groups = param_groups(net, [{"match": "0.*"}])
    assert [group["params"] for group in groups] == [[net[1].weight], [net[1].bias], [net[0].weight], [net[0].bias]]


def test_layers_decay_towards_the_input_and_the_last_has_the_full_rate():
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    names = {p: name for name, p in net.named_parameters()}
    groups = param_groups(net, layer_decay=0.5)
    found = {names[p]: group.get("lr_scale", 1) for group in groups for p in group["params"]}
    expected = {"0": 0.25, "1": 0.25, "2": 0.5, "4": 1}
    assert found == {name: expected[name[0]] for name in names.values()}
    assert [group.get("lr_scale", 1) for group in groups] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_rate_that_a_rule_sets_is_not_scaled_but_its_other_settings_are():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    rules = [{"match": "0.*", "lr": 0.01}, {"match": "1.*", "momentum": 0.1}]
    groups = param_groups(net, rules, layer_decay=0.5)
    assert [(group.get("lr_scale"), group.get("lr")) for group in groups] == [
        *[(None, None)] * 2,
        *[(None, 0.01)] * 2,
        *[(0.5, None)] * 2,
    ]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"lr": 0.1}], "each rule needs match, a regular expression for names of parameters, got {'lr': 0.1}"),
        ([{"match": 3}], "each rule needs match, a regular expression for names of parameters, got {'match': 3}"),
        ([{"match": "head.(*"}], "'head.(*' is not a regular expression: "),
        ([{"match": "haed.*"}], "'haed.*' matches no trained parameter; nearest are head."),
        ([{"match": "head"}], "'head' matches no trained parameter; nearest are head.bias, head.weight"),
        ([{"match": "features.0.0.weight"}], "matches no trained parameter"),  # is frozen
        ([{"match": "head.*"}, {"match": ".*bias"}, {"match": "head.bias"}], "'head.bias' comes too late: earlier"),
    ],
)
def test_a_rule_without_effect_is_refused(rules, message):
    net = SmallCNN(10, width=2)
    net.features[0][0].weight.requires_grad_(False)
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        param_groups(net, rules)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("layer_decay", [0, -0.5, 1.5])
def test_a_layer_decay_that_is_none_is_refused(layer_decay):
    with pytest.raises(UserError, match=re.escape(f"layer_decay must be in (0, 1], got {layer_decay}")):
        param_groups(nn.Linear(2, 2), layer_decay=layer_decay)


@pytest.mark.parametrize(
    ("optimizer", "rule", "message"),
    [
        (SGD, {"momentun": 0.5}, "SGD has no setting momentun, did you mean momentum?"),
        (SGD, {"muon": False}, "SGD has no setting muon, it has lr, momentum, dampening, "),
        (SGD, {"params": []}, "SGD has no setting params, "),
        (SGD, {"lr": "1e-2x"}, "lr must be a number, got '1e-2x'"),
        (SGD, {"lr": True}, "lr must be a number, got True"),
        (SGD, {"nesterov": 1}, "nesterov must be true or false, got 1"),
        (SGD, {"lr": -1}, "'0.*': Invalid learning rate: -1"),
        (SGD, {"nesterov": True}, "'0.*': Nesterov momentum requires a momentum and zero dampening"),
        (AdamW, {"betas": 3}, "betas must be 2 numbers, got 3"),
        (AdamW, {"betas": [0.9]}, "betas must be 2 numbers, got [0.9]"),
        (SGD, {3: 4}, "settings have names, got 3"),
        (AdamW, {"betas": [0.9, 2.0]}, "'0.*': Invalid beta parameter at index 1: 2.0"),
        (MuonSGD, {"momentum": 1.0}, r"'0.*': momentum must be in [0, 1), got 1.0"),
    ],
)
def test_a_setting_that_the_optimizer_lacks_or_refuses_is_refused(optimizer, rule, message):
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        check_settings(optimizer(nn.Linear(2, 2).parameters(), lr=0.1), [{"match": "0.*", **rule}])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        (SGD, {"lr": 1, "momentum": 0.5, "nesterov": True, "weight_decay": 0}),
        (AdamW, {"betas": [0.9, 0.99], "eps": 1e-6, "amsgrad": True, "fused": True}),
        (torch.optim.Adafactor, {"beta2_decay": -0.5, "eps": [None, 1e-3]}),
        (torch.optim.Muon, {"ns_steps": 3}),
        (MuonSGD, {"muon": False, "sgd_lr": 0.3}),
    ],
)
def test_settings_that_the_optimizer_has_are_taken(optimizer, rule):
    check_settings(optimizer([nn.Parameter(torch.ones(2, 2))], lr=0.1), [{"match": "0.*", **rule}])


def test_an_optimizer_that_stores_its_settings_under_other_names_is_left_alone():
    class Own(SGD):
        def __init__(self, weights, speed):
            super().__init__(weights, lr=speed)

    check_settings(Own([nn.Parameter(torch.ones(2))], 0.1), [{"match": "0.*", "lr": 0.5}])


@pytest.mark.parametrize(("optimizer", "decoupled"), [(torch.optim.AdamW, True), (torch.optim.Adam, False)])
def test_decoupled_decay_shrinks_weights_whatever_their_gradients_are(optimizer, decoupled):
    def shrunk(scale: float) -> float:
        weight = nn.Parameter(torch.ones(3, 3))
        made = optimizer(param_groups(nn.ParameterList([weight])), lr=0.1, weight_decay=0.5)
        weight.grad = torch.full_like(weight, scale)
        made.step()
        return float(weight.detach().mean())

    shares = [shrunk(scale) for scale in (1e-3, 1e3)]
    assert shares == pytest.approx([1 - 0.1 * 0.5 - 0.1] * 2 if decoupled else [1 - 0.1] * 2, rel=1e-4)
