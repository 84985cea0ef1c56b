"""Mix images and targets within a batch. Each sample has its own draws; torchvision draws once per batch."""

import torch
from torch import Tensor, nn

from src import require
from src.data.augment.erasing import box_mask


class Mix(nn.Module):
    """Base of mixing transforms: called with normalized images (N, C, H, W) and one-hot targets (N, K), returns both.

    Args:
        alpha: parameter of the Beta(alpha, alpha) distribution of lambda, above 0; 1 is uniform, smaller values favor
            lambda near 0 and 1.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        require(alpha > 0, f"alpha must be above 0, got {alpha}")
        self.alpha = alpha

    def draw_lambda(self, images: Tensor) -> Tensor:
        """Draw lambda, the weight of each image itself, (N,)."""
        alpha = torch.full((len(images),), float(self.alpha), device=images.device)
        return torch.distributions.Beta(alpha, alpha, validate_args=False).sample()


class MixUp(Mix):
    """Average each image and target with another sample's, with one lambda per sample; arXiv:1710.09412, section 2."""

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__(alpha)

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        lam = self.draw_lambda(images)
        partner = torch.randperm(len(images), device=images.device)
        mixed = torch.lerp(images[partner], images, lam[:, None, None, None])
        return mixed, torch.lerp(targets[partner], targets, lam[:, None])


class CutMix(Mix):
    """Paste one rectangle per sample from another image; area weights the targets; arXiv:1905.04899, section 3.1."""

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        n, _, h, w = images.shape
        side = (1 - self.draw_lambda(images)).sqrt()
        height, width = (side * h).round(), (side * w).round()
        center = torch.rand(2, n, device=images.device)
        top, left = (center[0] * h - height / 2).round(), (center[1] * w - width / 2).round()
        pasted = box_mask(top, left, height, width, images.shape)  # (N, 1, H, W)
        lam = 1 - pasted.float().mean((1, 2, 3))  # the box may be clipped at the border
        partner = torch.randperm(n, device=images.device)
        return torch.where(pasted, images[partner], images), torch.lerp(targets[partner], targets, lam[:, None])
