"""LeNet: a classic convolutional network."""

from torch import nn


class LeNet(nn.Sequential):
    """LeNet-5 with ReLU and max pooling: two 5x5 convolutions and three linear layers; LeCun et al., 1998.

    Args:
        num_outputs: number of outputs K.
        in_channels: channels C of the input.

    Shape:
        images (N, C, 32, 32) -> logits (N, K).
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
