"""MLP: a multilayer perceptron."""

from itertools import pairwise
from math import prod

from torch import nn


class MLP(nn.Sequential):
    """Linear layers on flattened images, each but the last followed by ReLU.

    Args:
        num_outputs: number of outputs K.
        image_shape: (C, H, W) of the input.
        hidden_sizes: width of each hidden layer; an empty list gives logistic regression.
        dropout: probability of zeroing a hidden unit in training, in [0, 1); arXiv:1207.0580.

    Shape:
        images (N, C, H, W) -> logits (N, K).
    """

    def __init__(
        self,
        num_outputs: int,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden_sizes: tuple[int, ...] | list[int] = (256, 256),
        dropout: float = 0.0,
    ) -> None:
        sizes = [prod(image_shape), *hidden_sizes]
        hidden = [
            layer
            for size, next_size in pairwise(sizes)
            for layer in (nn.Linear(size, next_size), nn.ReLU(inplace=True), nn.Dropout(dropout))
        ]
        super().__init__(nn.Flatten(), *hidden, nn.Linear(sizes[-1], num_outputs))
