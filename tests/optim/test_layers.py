"""layer_ids finds the layers that a reader of the net would count."""

import pytest
import torchvision
from torch import nn

from src.nets import MLP, SmallCNN
from src.optim.groups import layer_ids, no_decay_params


def ids_of(net: nn.Module) -> dict[nn.Parameter, int]:
    return layer_ids(net, no_decay_params(net))


def layers_of(net: nn.Module) -> list[list[str]]:
    """Return the parameter names of each layer."""
    ids = ids_of(net)
    layers: list[list[str]] = [[] for _ in range(max(ids.values()) + 1)]
    for name, p in net.named_parameters():
        layers[ids[p]].append(name)
    return layers


def modules_of(net: nn.Module) -> list[set[str]]:
    """Return the modules of each layer, two levels deep."""
    return [{".".join(name.split(".")[:2]) for name in names} for names in layers_of(net)]


class Wrapper(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class Encoder(nn.Module):
    """A position embedding next to a list of blocks, which hold lists too, as in torchvision's transformers."""

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


def test_layers_of_a_resnet_are_its_stem_its_blocks_and_its_head():
    assert modules_of(torchvision.models.resnet18()) == RESNET


def test_a_wrapper_is_not_a_layer():
    net = torchvision.models.resnet18()
    assert layers_of(Wrapper(Wrapper(net))) == [[f"net.net.{name}" for name in names] for names in layers_of(net)]


def test_the_search_descends_into_a_backbone_with_blocks():
    net = nn.Module()
    net.backbone, net.head = torchvision.models.resnet18(), nn.Linear(1000, 2)
    assert len(layers_of(net)) == len(RESNET) + 1


def test_a_sequential_net_has_one_layer_per_weight_with_its_norm():
    layers = layers_of(SmallCNN(10, width=2))
    assert layers[0] == ["features.0.0.weight", "features.0.1.weight", "features.0.1.bias"]
    assert [names[0] for names in layers] == [f"features.{i}.0.weight" for i in (0, 1, 3, 4, 6, 7)] + ["head.weight"]
    assert [len(names) for names in layers_of(MLP(10))] == [2, 2, 2]


def test_tokens_and_norms_of_a_transformer_join_the_previous_layer():
    first, second, third, last = layers_of(Encoder())
    assert first == ["token", "patches.weight", "patches.bias", "inside.positions"]
    assert {name[: len("inside.net.0")] for name in second} == {"inside.net.0"}
    assert len(second) == 10
    assert {name for name in third if not name.startswith("inside.net.1")} == {"norm.weight", "norm.bias"}
    assert last == ["head.weight", "head.bias"]


@pytest.mark.parametrize(("name", "blocks"), [("mobilenet_v3_small", 11), ("efficientnet_b0", 16), ("swin_t", 12)])
def test_blocks_of_other_nets_are_layers(name, blocks):
    net = torchvision.models.get_model(name)
    kinds = ("InvertedResidual", "MBConv", "SwinTransformerBlock")
    ids = ids_of(net)
    ids_of_blocks = [{ids[p] for p in m.parameters()} for m in net.modules() if type(m).__name__ in kinds]
    assert len(ids_of_blocks) == blocks
    assert all(len(block) == 1 for block in ids_of_blocks)
    assert len(set().union(*ids_of_blocks)) == blocks


def test_branches_of_a_block_are_one_layer():
    net = torchvision.models.googlenet(init_weights=False, aux_logits=False)
    assert modules_of(net).count({"inception3a.branch1", *(f"inception3a.branch{i}" for i in (2, 3, 4))}) == 1


def test_a_shared_parameter_belongs_to_its_first_layer():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    ids = ids_of(net)
    assert [ids[p] for p in (net[0].weight, net[1].weight, net[2].bias)] == [0, 1, 2]


def test_a_single_module_is_one_layer():
    assert set(ids_of(nn.Linear(2, 2)).values()) == {0}
    assert ids_of(nn.ReLU()) == {}


def test_lazy_weights_form_layers_and_lazy_norms_do_not():
    net = nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    assert layers_of(net) == [["0.weight", "0.bias", "1.weight", "1.bias"], ["3.weight", "3.bias"]]
