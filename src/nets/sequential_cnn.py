"""SequentialCNN: the plain convolutional network of many tutorials."""

from torch import nn


class SequentialCNN(nn.Sequential):
    """Three 5x5 convolutions, each followed by max pooling, the only nonlinearity, then two linear layers.

    Args:
        num_outputs: number of outputs K.
        in_channels: channels C of the input.

    Shape:
        images (N, C, 32, 32) -> logits (N, K).
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
