"""Small nets of tutorials and papers: MLP, LeNet, SequentialCNN and SmallCNN."""

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


class MLP(nn.Sequential):
    """Linear layers on flattened images, each but the last followed by an activation.

    Args:
        image_shape: (C, H, W) of the input.
        hidden_sizes: width of each hidden layer; an empty list gives logistic regression.
        dropout: probability of zeroing a hidden unit in training, in [0, 1); arXiv:1207.0580.
        activation: builds the activation after each hidden layer; by default torch.nn.ReLU.
    """

    def __init__(
        self,
        num_outputs: int,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden_sizes: tuple[int, ...] | list[int] = (256, 256),
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] | None = None,
    ) -> None:
        sizes = [prod(image_shape), *hidden_sizes]
        hidden: list[nn.Module] = []
        for size, next_size in pairwise(sizes):
            act = activation() if activation else nn.ReLU(inplace=True)
            hidden += [nn.Linear(size, next_size), act, nn.Dropout(dropout)]
        super().__init__(nn.Flatten(), *hidden, nn.Linear(sizes[-1], num_outputs))


class LeNet(nn.Sequential):
    """LeNet-5 with ReLU and max pooling, for images (N, C, 32, 32); LeCun et al., 1998.

    Args:
        in_channels: channels C of the input.
    """

    def __init__(self, num_outputs: int, in_channels: int = 3) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 6, kernel_size=5),  # (N, 6, 28, 28)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),  # (N, 16, 10, 10)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),  # (N, 400)
            nn.Linear(400, 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
            nn.Linear(84, num_outputs),
        )


class SequentialCNN(nn.Sequential):
    """Three 5x5 convolutions and two linear layers, with max pooling as the only nonlinearity, as in many tutorials.

    For images (N, C, 32, 32).

    Args:
        in_channels: channels C of the input.
    """

    def __init__(self, num_outputs: int, in_channels: int = 3) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 32, kernel_size=5, padding=2),
            nn.MaxPool2d(2),  # (N, 32, 16, 16)
            nn.Conv2d(32, 32, kernel_size=5, padding=2),
            nn.MaxPool2d(2),  # (N, 32, 8, 8)
            nn.Conv2d(32, 64, kernel_size=5, padding=2),
            nn.MaxPool2d(2),  # (N, 64, 4, 4)
            nn.Flatten(),  # (N, 1024)
            nn.Linear(1024, 64),
            nn.Linear(64, num_outputs),
        )


class SmallCNN(nn.Module):
    """Three stages of two 3x3 convolutions, max pooling between them, then average pooling and a linear layer.

    For images of at least 4x4 pixels.

    Args:
        in_channels: channels C of the input.
        width: channels of the first stage; each stage doubles them.
        activation: builds the activation after each convolution; by default torch.nn.ReLU.
    """

    def __init__(
        self,
        num_outputs: int,
        in_channels: int = 1,
        width: int = 32,
        activation: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        act: dict[str, Any] = {"activation_layer": activation, "inplace": None} if activation else {}
        self.features = nn.Sequential(
            Conv2dNormActivation(in_channels, width, **act),
            Conv2dNormActivation(width, width, **act),
            nn.MaxPool2d(2),
            Conv2dNormActivation(width, 2 * width, **act),
            Conv2dNormActivation(2 * width, 2 * width, **act),
            nn.MaxPool2d(2),
            Conv2dNormActivation(2 * width, 4 * width, **act),
            Conv2dNormActivation(4 * width, 4 * width, **act),
        )
        self.head = nn.Linear(4 * width, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))  # mean: (N, 4 * width)
