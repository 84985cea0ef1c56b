"""ResNet9: a small residual network for small images."""

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from src import require


class ResNet9(nn.Module):
    """Eight convolutions, four of them in two residual blocks, then a linear layer.

    For images of at least 8x8 pixels; David Page, "How to train your ResNet", 2018, part 4. Pooling comes before batch
    norm here, which is faster and changes the accuracy little.

    Args:
        num_outputs: number of outputs K.
        in_channels: channels C of the input.
        width: channels of the first convolution, 64 in the source; the last one has eight times as many.
        drop_path: probability of dropping a sample from the second residual branch in training, in [0, 1); half of it
            for the first branch (stochastic depth, arXiv:1603.09382).
        dropout: probability of zeroing a feature before the last layer in training, in [0, 1); arXiv:1207.0580.
    """

    def __init__(
        self, num_outputs: int, in_channels: int = 3, width: int = 64, drop_path: float = 0.0, dropout: float = 0.0
    ) -> None:
        require(0 <= drop_path < 1, f"drop_path must be in [0, 1), got {drop_path}")
        super().__init__()
        self.features = nn.Sequential(
            ConvBlock(in_channels, width),
            ConvBlock(width, 2 * width, pool=True),  # (N, 2 * width, H / 2, W / 2)
            ResidualBlock(2 * width, drop_path / 2),
            ConvBlock(2 * width, 4 * width, pool=True),
            ConvBlock(4 * width, 8 * width, pool=True),
            ResidualBlock(8 * width, drop_path),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),  # (N, 8 * width)
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(8 * width, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class ConvBlock(nn.Sequential):
    """Convolution, optional pooling, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, pool: bool = False) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.MaxPool2d(2) if pool else nn.Identity(),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two convolution blocks with a skip connection."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(ConvBlock(channels, channels), ConvBlock(channels, channels))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, images: Tensor) -> Tensor:
        return images + self.drop_path(self.branch(images))
