"""Pruning removes channels of every layer but the last, and keeps what a net returns in shape."""

import pytest
import torch
from torch import Tensor, nn

from src import UserError
from src.commands.exports.prune import kept, prune
from src.nets import LeNet, ResNet9, SmallCNN, UNet
from src.tasks import Autoencoder


@pytest.mark.parametrize(
    ("count", "ratio", "expected"),
    [(16, 0.5, 8), (32, 0.3, 24), (64, 0.9, 8), (48, 0.1, 40), (6, 0.5, 6), (24, 0.01, 24)],
)
def test_a_multiple_of_eight_channels_stays(count: int, ratio: float, expected: int) -> None:
    assert int(kept(count, ratio)) == expected
    assert int(count * (1 - (1 - kept(count, ratio) / count))) in (expected, expected - (expected == count))


def test_the_channels_with_the_smallest_weights_are_removed() -> None:
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[0].weight[::2] *= 1e-3  # type: ignore[operator, union-attr]
        net[3].weight[:, ::2] *= 1e-3  # type: ignore[operator, union-attr]
    strong, last = (each.detach().clone() for each in (net[0].weight[1::2], net[3].weight[:, 1::2]))  # type: ignore[index, union-attr]
    assert prune(net, (1, 3, 3), 0.5) == (16 * 9 + 16 + 51, 8 * 9 + 8 + 27)
    assert torch.equal(net[0].weight, strong)
    assert torch.equal(net[3].weight, last)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (SmallCNN(10, width=16), (1, 8, 8)),
        (LeNet(10), (3, 32, 32)),
        (ResNet9(10, width=16), (3, 32, 32)),
        (UNet(3, width=16), (3, 16, 16)),
        (Autoencoder((1, 8, 8)), (1, 8, 8)),
    ],
)
def test_a_pruned_net_returns_the_same_shapes(net: nn.Module, shape: tuple[int, ...]) -> None:
    images = torch.rand(3, *shape)
    expected = net.eval()(images).shape
    before, after = prune(net, shape, 0.5)
    assert after < 0.65 * before
    assert net(images).shape == expected


class Fixed(nn.Module):
    """A net whose forward names the number of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images).reshape(-1, 16, 64).mean(2))


def test_a_net_that_cannot_be_pruned_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="--prune: this net cannot be pruned") as refused:
        prune(Fixed(), (1, 8, 8), 0.5)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="layers have too few channels to remove 50% of them"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Linear(8, 2)), (1, 2, 2), 0.5)
    with pytest.raises(UserError, match="it has no linear or convolutional layers"):
        prune(nn.Flatten(), (1, 2, 2), 0.5)
