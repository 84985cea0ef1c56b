"""Images and their targets mixed with others of the batch, each with a partner and a share of its own."""

import torch
from torch import Tensor, nn

from src.data.augment.boxes import box_mask


class Mix(nn.Module):
    """Called with normalised images (N, C, H, W) and one-hot targets (N, K); subclasses return both mixed.

    Args:
        alpha: of the Beta distribution that shares are drawn from, above 0: with 1 all are equally likely, with less
            those near 0 and 1 are.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if alpha <= 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        self.alpha = alpha

    def shares(self, n: int, device: torch.device) -> Tensor:
        """Return which share of itself each image keeps, (N,)."""
        alpha = torch.full((n,), float(self.alpha), device=device)
        return torch.distributions.Beta(alpha, alpha, validate_args=False).sample()


class MixUp(Mix):
    """A weighted mean of two images, and of their targets; arXiv:1710.09412, section 2."""

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__(alpha)

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        share = self.shares(len(images), images.device)
        partner = torch.randperm(len(images), device=images.device)
        return (
            torch.lerp(images[partner], images, share.view(-1, 1, 1, 1)),
            torch.lerp(targets[partner], targets, share.view(-1, 1)),
        )


class CutMix(Mix):
    """A rectangle of another image, whose target counts in proportion to the area; arXiv:1905.04899, section 3.1."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        n, _, h, w = images.shape
        side = (1 - self.shares(n, images.device)).sqrt()
        height, width = (side * h).round(), (side * w).round()
        middle = torch.rand(2, n, device=images.device)
        top, left = (middle[0] * h - height / 2).round(), (middle[1] * w - width / 2).round()
        cut = box_mask(top, left, height, width, images.shape)  # (N, 1, H, W)
        share = 1 - cut.float().mean((1, 2, 3))
        partner = torch.randperm(n, device=images.device)
        return torch.where(cut, images[partner], images), torch.lerp(targets[partner], targets, share[:, None])
