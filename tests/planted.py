"""Nets and data with one bug each, which ``check --fit`` must find."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from src.data import Digits
from tests.own_code import Loaders, Plain, digits


class Sound(nn.Module):
    """A small net with batch norm and dropout, without a bug."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.hidden, self.drop, self.head = nn.Linear(8 * 16, 32), nn.Dropout(0.1), nn.Linear(32, num_classes)

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.max_pool2d(self.relu(self.norm(self.conv(images))), 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.hidden(self.features(images).flatten(1)).relu()))


class Softmaxed(Sound):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(1)


class Detached(Sound):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images).detach()


class Dead(Sound):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        nn.init.constant_(self.hidden.bias, -100)


class Mixed(Sound):
    """Swaps channels and samples before a reshape, which keeps the shape."""

    def features(self, images: Tensor) -> Tensor:
        x = super().features(images)
        return x.transpose(0, 1).reshape(x.shape)


class Loud(Sound):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.head.weight.data *= 100


class Noisy(Sound):
    """Dropout that ignores eval mode."""

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(images), 0.5)


class Doubled(Sound):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (2 if self.training else 1)


class Bounded(Sound):
    """Ends with a sigmoid, whose outputs do not sum to 1."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).sigmoid()


class Still(Sound):
    """Batch norm whose statistics for eval never move."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.norm.momentum = 0.0


class BrokenBackward(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


def wrong_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distance to one-hot targets, with a backward of its own that is wrong."""
    return BrokenBackward.apply(outputs - nn.functional.one_hot(targets, outputs.shape[1])).mean()


def negative(outputs: Tensor, targets: Tensor) -> Tensor:
    return -nn.functional.cross_entropy(outputs, targets)


class Part(Plain):
    """Trains its last layer only, although no other one is frozen."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net[-1].parameters(), lr=0.1)


class Broadcast(Plain):
    """Compares outputs (N, 1) with targets (N,), so each one with each other."""

    def step(self, batch: Any) -> Tensor:
        return nn.functional.mse_loss(self(batch[0])[:, :1], batch[1].float())


class ShuffledDigits(Digits):
    def load(self, train: bool) -> tuple[Any, Any]:
        images, targets = super().load(train)
        return images, targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))]


class ManyDigits(Loaders):
    """Batches of another project, some of whose labels belong to other images."""

    def __init__(self, batch_size: int = 16, shuffled: bool = False) -> None:
        super().__init__(batch_size)
        self.shuffled = shuffled

    def dataset(self) -> TensorDataset:
        images, targets = digits(400).tensors
        order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
        return TensorDataset(images, targets[order] if self.shuffled else targets)
