"""Layers are what a reader of the net would count."""

import pytest
import torchvision
from torch import nn

from src.nets import MLP, SmallCNN
from src.optim.layers import layer_numbers, vectors


def by_layer(net: nn.Module) -> list[list[str]]:
    """Return the names of the parameters of each layer."""
    numbers = layer_numbers(net)
    found: list[list[str]] = [[] for _ in range(max(numbers.values()) + 1)]
    for name, p in net.named_parameters():
        found[numbers[p]].append(name)
    return found


def modules(net: nn.Module) -> list[set[str]]:
    """Return the modules, two levels deep, that each layer consists of."""
    return [{".".join(name.split(".")[:2]) for name in names} for names in by_layer(net)]


class Wrapper(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class Encoder(nn.Module):
    """Positions beside a list of blocks, as in torchvision's transformers; in each block there is a list too."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(nn.Linear(4, 4).weight.detach())
        self.patches = nn.Conv2d(1, 4, 2)
        self.inside = Wrapper(nn.ModuleList([Block(), Block()]))
        self.inside.positions = nn.Parameter(nn.Linear(4, 4).weight.detach())
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 1)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))


RESNET = [{"conv1.weight", "bn1.weight", "bn1.bias"}]
RESNET += [{f"layer{stage}.{block}"} for stage in range(1, 5) for block in range(2)]
RESNET += [{"fc.weight", "fc.bias"}]


def test_a_resnet_consists_of_its_first_convolution_each_block_and_its_head():
    assert modules(torchvision.models.resnet18()) == RESNET


def test_a_wrapper_does_not_count():
    net = torchvision.models.resnet18()
    assert by_layer(Wrapper(Wrapper(net))) == [[f"net.net.{name}" for name in names] for names in by_layer(net)]


def test_a_net_inside_a_net_is_opened_where_it_holds_blocks():
    net = nn.Module()
    net.backbone, net.head = torchvision.models.resnet18(), nn.Linear(1000, 2)
    assert len(by_layer(net)) == len(RESNET) + 1


def test_a_net_of_lists_has_a_layer_for_each_weight_with_its_norm():
    layers = by_layer(SmallCNN(10, width=2))
    assert layers[0] == ["features.0.0.weight", "features.0.1.weight", "features.0.1.bias"]
    assert [names[0] for names in layers] == [f"features.{i}.0.weight" for i in (0, 1, 3, 4, 6, 7)] + ["head.weight"]
    assert [len(names) for names in by_layer(MLP(10))] == [2, 2, 2]


def test_blocks_of_a_transformer_are_layers_and_tokens_and_norms_belong_to_what_came_before():
    first, second, third, last = by_layer(Encoder())
    assert first == ["token", "patches.weight", "patches.bias", "inside.positions"]
    assert {name[: len("inside.net.0")] for name in second} == {"inside.net.0"}
    assert len(second) == 10
    assert {name for name in third if not name.startswith("inside.net.1")} == {"norm.weight", "norm.bias"}
    assert last == ["head.weight", "head.bias"]


@pytest.mark.parametrize(("name", "blocks"), [("mobilenet_v3_small", 11), ("efficientnet_b0", 16), ("swin_t", 12)])
def test_blocks_of_other_nets_are_layers_too(name, blocks):
    net = torchvision.models.get_model(name)
    kinds = ("InvertedResidual", "MBConv", "SwinTransformerBlock")
    numbers = layer_numbers(net)
    found = [{numbers[p] for p in m.parameters()} for m in net.modules() if type(m).__name__ in kinds]
    assert len(found) == blocks
    assert all(len(each) == 1 for each in found)
    assert len(set().union(*found)) == blocks


def test_branches_of_one_block_are_one_layer():
    net = torchvision.models.googlenet(init_weights=False, aux_logits=False)
    assert modules(net).count({"inception3a.branch1", *(f"inception3a.branch{i}" for i in (2, 3, 4))}) == 1


def test_a_shared_parameter_belongs_to_the_first_layer_that_has_it():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    numbers = layer_numbers(net)
    assert [numbers[p] for p in (net[0].weight, net[1].weight, net[2].bias)] == [0, 1, 2]


def test_a_single_layer_is_the_first():
    assert set(layer_numbers(nn.Linear(2, 2)).values()) == {0}
    assert layer_numbers(nn.ReLU()) == {}


def test_lazy_weights_count_as_matrices_and_lazy_norms_do_not():
    net = nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    assert by_layer(net) == [["0.weight", "0.bias", "1.weight", "1.bias"], ["3.weight", "3.bias"]]
    assert vectors(net) == {net[0].bias, net[1].weight, net[1].bias, net[3].bias}
