"""Residual networks: those of torchvision for images of any size, and ResNet9 for small images."""

from pathlib import Path

from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import StochasticDepth

from src import require
from src.nets.weights import load_weights


class ResNet(nn.Module):
    """Residual network; arXiv:1512.03385.

    Args:
        in_channels: channels C of the input.
        depth: 10 (one block per stage), 18, 34, 50, 101 or 152 layers.
        small_images: start with one 3x3 convolution instead of a strided 7x7 and pooling; for images below 64 pixels.
        weights: name of pretrained torchvision weights, such as DEFAULT, or a file with a state dict. The last layer is
            not loaded, nor the first one if its shape differs.
        drop_path: probability of dropping a sample from the last residual branch in training, in [0, 1); decreases
            linearly toward the first branch (stochastic depth, arXiv:1603.09382).
        dropout: probability of zeroing a feature before the last layer in training, in [0, 1); arXiv:1207.0580.
    """

    def __init__(
        self,
        num_outputs: int,
        in_channels: int = 3,
        depth: int = 18,
        small_images: bool = False,
        weights: str | None = None,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require(depth in (10, 18, 34, 50, 101, 152), f"depth must be 10, 18, 34, 50, 101 or 152, got {depth}")
        require(0 <= drop_path < 1, f"drop_path must be in [0, 1), got {drop_path}")
        name = f"resnet{depth}"
        self.net = models.ResNet(BasicBlock, [1, 1, 1, 1]) if depth == 10 else models.get_model(name)
        if small_images:
            self.net.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
            self.net.maxpool = nn.Identity()
        elif in_channels != 3:
            self.net.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        if weights is not None:
            self.load(name, weights)
        self.net.fc = nn.Linear(self.net.fc.in_features, num_outputs)
        self.net.avgpool = nn.Sequential(self.net.avgpool, nn.Dropout(dropout))
        if drop_path:
            add_stochastic_depth(self.net, drop_path)

    def load(self, name: str, weights: str) -> None:
        """Load all weights; those of the last layer are then replaced, and the first one may have another shape."""
        known = models.get_model_weights(name).__members__ if name in models.list_models() else {}
        shown = ", ".join(known) or "none"
        valid = weights in known or Path(weights).is_file()
        require(valid, f"weights must be a file or one of {name}'s ({shown}), got {weights}")
        account = load_weights(self.net, str(known.get(weights, weights)))
        others = [key for kind in ("other shape", "missing", "unexpected") for key in account[kind]]
        unfit = ", ".join(key for key in others if not key.startswith(("fc.", "conv1.weight")))
        require(not unfit, f"weights {weights} do not match this net: {unfit[:100]}")

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def add_stochastic_depth(net: models.ResNet, drop_path: float) -> None:
    """Apply stochastic depth after the last norm of each branch, by hooks, so that parameter names do not change."""
    blocks = [m for m in net.modules() if isinstance(m, BasicBlock | Bottleneck)]
    for i, block in enumerate(blocks, 1):
        norm = block.bn2 if isinstance(block, BasicBlock) else block.bn3
        norm.drop_path = StochasticDepth(drop_path * i / len(blocks), mode="row")
        norm.register_forward_hook(lambda norm, _, branch: norm.drop_path(branch))


class ResNet9(nn.Module):
    """Eight convolutions, four of them in two residual blocks, then a linear layer.

    For images of at least 8x8 pixels; David Page, "How to train your ResNet", 2018, part 4. Pooling comes before batch
    norm here, which is faster and changes the accuracy little.

    Args:
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
    def __init__(self, in_channels: int, out_channels: int, pool: bool = False) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.MaxPool2d(2) if pool else nn.Identity(),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(ConvBlock(channels, channels), ConvBlock(channels, channels))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, images: Tensor) -> Tensor:
        return images + self.drop_path(self.branch(images))
