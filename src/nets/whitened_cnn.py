"""WhitenedCNN: a convolutional network that learns small color images in a few epochs."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, pad, unfold

from src import require


class WhitenedCNN(nn.Module):
    """Fixed whitening filters, several stages of convolutions and a scaled head; arXiv:2404.00498, section 3.

    Made for large learning rates: convolutions start as the identity, batch norms have no scale, and the logits are
    divided by the number of features. H and W must be at least 2 ** (stages + 1).

    Args:
        in_channels: channels C of the input.
        widths: channels of each stage; a stage halves H and W.
        depth: convolutions per stage, at least 2; from 3 on, all but the first form a residual branch.
        momentum: weight of each batch in the running statistics of batch norm, in (0, 1].
    """

    def __init__(
        self,
        num_outputs: int,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 256, 256),
        depth: int = 2,
        momentum: float = 0.4,
    ) -> None:
        require(depth >= 2, f"depth must be at least 2, got {depth}")
        super().__init__()
        self.whitening = Whitening(in_channels)
        stages = [Stage(*channels, depth, momentum) for channels in pairwise([self.whitening.out_channels, *widths])]
        self.features = nn.Sequential(nn.GELU(), *stages)
        self.head = nn.Linear(widths[-1], num_outputs, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(self.whitening(images))
        largest = max_pool2d(features, features.shape[2:]).flatten(1)  # (N, widths[-1]); AdaptiveMaxPool2d is slow
        return self.head(largest) / self.head.in_features


class Whitening(nn.Conv2d):
    """2x2 filters and their negatives that whiten image patches, (N, 8 * C, H - 1, W - 1); only biases are trained."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 8 * channels, kernel_size=2)
        self.weight.requires_grad = False

    @torch.no_grad()
    def init_from_data(self, images: Tensor) -> None:
        """Set the filters to scaled eigenvectors of the patch covariance of normalized training images (N, C, H, W)."""
        products, count = torch.zeros(2 * [len(self.weight) // 2], device=images.device), 0
        for chunk in images.split(500):
            patches = unfold(chunk, 2).transpose(1, 2).flatten(0, 1)  # (N * (H - 1) * (W - 1), 4 * C)
            products, count = products + patches.T @ patches, count + len(patches)
        variances, vectors = torch.linalg.eigh(products / count)
        filters = (vectors / (variances + 5e-4).sqrt()).T.view(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))


class Stage(nn.Module):
    """Convolutions, each with batch norm and GELU, with 2x2 pooling after the first."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, momentum: float) -> None:
        super().__init__()
        conv, norm = PooledConv(in_channels, out_channels), UnscaledBatchNorm(out_channels, momentum)
        self.pooled = nn.Sequential(conv, norm, nn.GELU())
        layers: list[nn.Module] = []
        for _ in range(depth - 1):
            layers += [IdentityConv(out_channels, out_channels), UnscaledBatchNorm(out_channels, momentum), nn.GELU()]
        self.branch, self.last = nn.Sequential(*layers[:-1]), layers[-1]
        self.residual = depth > 2

    def forward(self, images: Tensor) -> Tensor:
        images = self.pooled(images)
        out = self.branch(images)
        return self.last(images + out if self.residual else out)


class IdentityConv(nn.Conv2d):
    """A 3x3 convolution whose first filters start as the identity."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        nn.init.dirac_(self.weight.data[:in_channels])


class PooledConv(IdentityConv):
    """IdentityConv followed by 2x2 max pooling; skips the last odd row and column, which pooling would discard."""

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        return max_pool2d(conv2d(pad(images, (1, 1 - width % 2, 1, 1 - height % 2)), self.weight), 2)


class UnscaledBatchNorm(nn.BatchNorm2d):
    """Batch norm with a trained bias and a fixed scale of 1."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__(channels, eps=1e-12, momentum=momentum)
        self.weight.requires_grad = False
