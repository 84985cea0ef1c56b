"""Losses of regression that torch lacks."""

import torch
from torch import Tensor, nn

from src import require


class LogError(nn.Module):
    """Mean squared logarithmic error (MSLE), which counts relative errors of targets that are not negative.

    The mean of (log(1 + output) - log(1 + target)) squared. For an output below 0, its tangent there takes the place
    of the logarithm, so that the loss stays finite.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logs = torch.where(outputs > 0, outputs.clamp(min=0).log1p(), outputs)
        return (logs - targets.log1p()).square().mean()


class QuantileLoss(nn.Module):
    """Pinball loss, which a quantile of the targets minimizes; Koenker and Bassett, 1978, doi:10.2307/1913643.

    Args:
        quantile: the quantile to learn, in (0, 1); 0.5 is the median, and half the mean absolute error.
    """

    def __init__(self, quantile: float = 0.5) -> None:
        super().__init__()
        require(0 < quantile < 1, f"quantile must be in (0, 1), got {quantile}")
        self.quantile = quantile

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        errors = targets - outputs
        return torch.maximum(self.quantile * errors, (self.quantile - 1) * errors).mean()
