"""Every net returns K logits per image, trains all its parameters, and has the published size."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torchvision import models
from torchvision.ops import StochasticDepth

from src import UserError
from src.nets import MLP, LeNet, MobileCNN, ResNet, ResNet9, SequentialCNN, SmallCNN


def num_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("make", "settings", "shape"),
    [
        (MLP, {"image_shape": (3, 5, 4)}, (3, 5, 4)),
        (MLP, {"image_shape": (1, 4, 4), "hidden_sizes": [6], "dropout": 0.5}, (1, 4, 4)),
        (LeNet, {}, (3, 32, 32)),
        (LeNet, {"in_channels": 1}, (1, 32, 32)),
        (SequentialCNN, {}, (3, 32, 32)),
        (SequentialCNN, {"in_channels": 1}, (1, 32, 32)),
        (SmallCNN, {}, (1, 28, 28)),
        (SmallCNN, {"in_channels": 3, "width": 8}, (3, 4, 4)),
        (MLP, {"image_shape": (1, 4, 4), "activation": nn.Tanh}, (1, 4, 4)),
        (SmallCNN, {"width": 4, "activation": nn.GELU}, (1, 8, 8)),
        (ResNet, {"depth": 10, "small_images": True}, (3, 8, 8)),
        (ResNet, {"depth": 10, "small_images": True, "in_channels": 1}, (1, 8, 8)),
        (ResNet, {"depth": 18, "in_channels": 1}, (1, 40, 33)),
        (ResNet, {"depth": 50}, (3, 32, 32)),
        (ResNet, {"depth": 50, "small_images": True}, (3, 8, 8)),
        (ResNet9, {"width": 8}, (3, 8, 8)),
        (ResNet9, {"width": 4, "in_channels": 1}, (1, 32, 20)),
    ],
)
def test_a_net_returns_k_logits_and_trains_all_parameters(make, settings, shape):
    torch.manual_seed(0)
    net = make(7, **settings)
    logits = net(torch.randn(4, *shape))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (LeNet(10, in_channels=1), 61_706),
        (SequentialCNN(10), 145_578),
        (MLP(10), 784 * 256 + 256 + 256 * 256 + 256 + 2570),
        (ResNet(1000), 11_689_512),
        (ResNet9(10), 6_573_130),
    ],
)
def test_the_number_of_parameters_is_as_published(net, expected):
    assert num_parameters(net) == expected


@pytest.mark.parametrize("depth", [10, 18, 50])
@pytest.mark.parametrize("small_images", [False, True])
def test_depth_counts_the_layers_with_weights(depth, small_images):
    net = ResNet(10, depth=depth, small_images=small_images)
    layers = [name for name, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len([name for name in layers if "downsample" not in name]) == depth


def test_small_images_are_not_downsampled_by_the_stem():
    assert [ResNet(2, depth=10, small_images=small).net.conv1.stride for small in (True, False)] == [(1, 1), (2, 2)]
    images = torch.randn(1, 3, 32, 32)
    shapes = []
    for small in (True, False):
        net = ResNet(2, depth=10, small_images=small).eval()
        net.net.layer1.register_forward_hook(lambda module, args, output: shapes.append(output.shape[2:]))  # noqa: ARG005
        net(images)
    assert shapes == [(32, 32), (8, 8)]


def test_an_mlp_without_hidden_layers_is_a_linear_layer():
    net, images = MLP(3, image_shape=(2, 3, 4), hidden_sizes=[]), torch.randn(5, 2, 3, 4)
    weight, bias = net.parameters()
    torch.testing.assert_close(net(images), linear(images.flatten(1), weight, bias))


@pytest.mark.parametrize(
    ("settings", "skipped"),
    [
        ({}, ["fc"]),
        ({"small_images": True}, ["fc", "conv1"]),
        ({"in_channels": 1}, ["fc", "conv1"]),
    ],
)
def test_weights_from_a_file_are_loaded_except_mismatched_layers(settings, skipped):
    torch.manual_seed(0)
    stored = ResNet(1000, depth=10).net.state_dict()
    torch.save(stored, "weights.pt")
    own = ResNet(7, depth=10, weights="weights.pt", **settings).net.state_dict()
    differing = [key.split(".")[0] for key in own if not own[key].equal(stored[key])]
    assert set(differing) == set(skipped)


def save_other_net() -> None:
    torch.save(models.resnet18().state_dict(), "weights.pt")


def save_partial() -> None:
    torch.save({"bn1.weight": torch.ones(64)}, "weights.pt")


def save_tensor() -> None:
    torch.save(torch.ones(3), "weights.pt")


def save_text() -> None:
    Path("weights.pt").write_text("not weights", encoding="utf-8")


@pytest.mark.parametrize("save", [save_other_net, save_partial, save_tensor, save_text])
def test_a_file_without_matching_weights_is_rejected(save):
    save()
    with pytest.raises(UserError, match=r"weights\.pt") as caught:
        ResNet(7, depth=10, weights="weights.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("depth", "known"), [(18, "IMAGENET1K_V1.*"), (10, "none")])
def test_unknown_weights_are_rejected(depth, known):
    with pytest.raises(UserError, match=rf"weights must be a file or one of resnet{depth}'s \({known}\), got nope"):
        ResNet(7, depth=depth, weights="nope")


def test_an_unknown_depth_is_rejected():
    with pytest.raises(ValueError, match="depth must be 10, 18, 34, 50, 101 or 152, got 11"):
        ResNet(7, depth=11)


@pytest.mark.parametrize(
    ("net", "branches"),
    [
        (ResNet(3, depth=10, small_images=True, drop_path=0.8), 4),
        (ResNet(3, depth=50, small_images=True, drop_path=0.8), 16),
        (ResNet9(3, width=4, drop_path=0.8), 2),
    ],
)
def test_stochastic_depth_drops_later_branches_more_often_per_sample(net, branches):
    torch.manual_seed(0)
    net, kept = deepcopy(net), []  # weight averaging copies nets

    def record(drop: StochasticDepth, inputs: tuple[Tensor], output: Tensor) -> None:
        kept.append((output != 0).flatten(1).any(1).float().mean())
        assert output.equal(inputs[0]) != drop.training

    drops = [m for m in net.modules() if isinstance(m, StochasticDepth)]
    for drop in drops:
        drop.register_forward_hook(record)
    net(torch.randn(400, 3, 8, 8))
    assert len(kept) == branches
    assert kept == pytest.approx([1 - 0.8 * (i + 1) / branches for i in range(branches)], abs=0.1)
    kept.clear()
    net.eval()(torch.randn(5, 3, 8, 8))
    assert kept == [1] * branches


@pytest.mark.parametrize("kind", [ResNet, ResNet9])
def test_a_drop_path_of_1_is_rejected(kind):
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        kind(3, drop_path=1)


def test_stochastic_depth_and_dropout_add_no_parameters():
    assert ResNet(3, drop_path=0.5, dropout=0.5).state_dict().keys() == ResNet(3).state_dict().keys()


@pytest.mark.parametrize("net", [ResNet(3, depth=10, dropout=0.5), ResNet9(3, width=4, dropout=0.5)])
def test_dropout_zeroes_the_given_fraction_of_the_features(net):
    torch.manual_seed(0)
    fractions = []
    dropout = next(m for m in net.modules() if isinstance(m, nn.Dropout))
    dropout.register_forward_hook(
        lambda _, inputs, output: fractions.append(float((output[inputs[0] != 0] == 0).float().mean()))
    )
    images = torch.randn(40, 3, 32, 32)
    net(images)
    net.eval()(images)
    assert fractions == [pytest.approx(0.5, abs=0.03), 0]


@pytest.mark.parametrize("kind", [MLP, SmallCNN, MobileCNN])
def test_an_activation_replaces_every_relu(kind):
    kinds = [[type(m) for m in kind(3, activation=act).modules()] for act in (None, nn.LeakyReLU)]
    assert nn.ReLU in kinds[0]
    assert [nn.LeakyReLU if each is nn.ReLU else each for each in kinds[0]] == kinds[1]


@pytest.mark.parametrize("kind", [MLP, SmallCNN])
def test_relu_by_name_is_the_default_to_the_bit(kind):
    images, outputs = torch.randn(2, 1, 28, 28), []
    for settings in ({}, {"activation": nn.ReLU}):
        torch.manual_seed(0)
        outputs.append(kind(3, **settings)(images))
    assert outputs[0].equal(outputs[1])
