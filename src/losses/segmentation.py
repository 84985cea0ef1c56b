"""Losses of masks that torch lacks: logits (N, K, H, W) and masks of classes (N, H, W) give a scalar."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from src import at_least_float32, require


class Overlap(nn.Module):
    """Base of losses of the overlap between predicted and true area of each class in an image.

    The mean is over images, and in each over the classes that its mask has, so that it does not depend on the batch.

    Args:
        smooth: pixels added to both areas and their overlap, at least 0, which damps the loss of tiny areas.
    """

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        require(smooth >= 0, f"smooth must be at least 0, got {smooth}")
        self.smooth = smooth

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        predicted = at_least_float32(logits).softmax(1).flatten(2)  # (N, K, pixels)
        true = one_hot(targets.flatten(1), logits.shape[1]).movedim(2, 1).to(predicted.dtype)
        areas, overlap = predicted.sum(2) + true.sum(2), (predicted * true).sum(2)
        present = (true.sum(2) > 0).to(predicted.dtype)
        return ((1 - self.score(overlap, areas)) * present).sum(1).div(present.sum(1)).mean()

    def score(self, overlap: Tensor, areas: Tensor) -> Tensor:
        """Return the score (N, K) in [0, 1] of the overlap (N, K) and the sum of both areas (N, K)."""
        raise NotImplementedError


class SoftDice(Overlap):
    """1 - the Dice coefficient, twice the overlap divided by the sum of both areas; arXiv:1606.04797."""

    def score(self, overlap: Tensor, areas: Tensor) -> Tensor:
        return (2 * overlap + self.smooth) / (areas + self.smooth)


class SoftIoU(Overlap):
    """1 - intersection over union; Rahman and Wang, 2016, doi:10.1007/978-3-319-50835-1_22."""

    def score(self, overlap: Tensor, areas: Tensor) -> Tensor:
        return (overlap + self.smooth) / (areas - overlap + self.smooth)


class SumOfLosses(nn.Module):
    """Weighted sum of losses, such as cross-entropy and SoftDice.

    Args:
        losses: the losses, each a mean over samples.
        weights: factor of each loss; by default 1.
    """

    def __init__(self, losses: list[nn.Module], weights: list[float] | None = None) -> None:
        super().__init__()
        self.losses, self.weights = nn.ModuleList(losses), weights or [1.0] * len(losses)
        require(losses, "losses must have at least one loss, got none")
        require(len(losses) == len(self.weights), f"weights must be {len(losses)} numbers, got {weights}")
        means = all(getattr(x, "weight", None) is None and getattr(x, "reduction", "mean") == "mean" for x in losses)
        means = means and all(getattr(x, "ignore_index", -100) == -100 for x in losses)
        rule = "means over samples, without class weights and ignore_index"
        require(means, f"losses must be {rule}, or their sum depends on the batch")

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        terms = [weight * loss(outputs, targets) for weight, loss in zip(self.weights, self.losses, strict=True)]
        return torch.stack(terms).sum()
