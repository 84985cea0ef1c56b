"""Penalties: terms added to the training loss, each called with the net."""

from math import inf

import torch
from torch import Tensor, nn

from src import UserError, compile_pattern, require


class Penalty:
    """Base of penalties that sum one term per weight: a trainable parameter with at least two axes.

    Subclasses implement ``term``. A net without a matching weight is a UserError.

    Args:
        weight: factor of the sum, at least 0.
        match: regular expression for full parameter names, such as ``features.*``.
    """

    def __init__(self, weight: float, match: str = ".*") -> None:
        require(0 <= weight < inf, f"weight must be at least 0, got {weight}")
        self.weight, self.pattern = weight, compile_pattern("match", match)

    def term(self, weight: Tensor) -> Tensor:
        """Return the penalty of one weight, ()."""
        raise NotImplementedError

    def __call__(self, net: nn.Module) -> Tensor:
        weights = {name: p for name, p in net.named_parameters() if p.requires_grad and p.ndim > 1}
        terms = [self.term(weight) for name, weight in weights.items() if self.pattern.fullmatch(name)]
        if not terms:
            shown = ", ".join(list(weights)[:5]) + (", ..." if len(weights) > 5 else "")
            raise UserError(f"match must match the full name of a weight ({shown}), got {self.pattern.pattern!r}")
        return self.weight * torch.stack(terms).sum()


class L1(Penalty):
    """Sum of absolute values; drives weights to zero."""

    def term(self, weight: Tensor) -> Tensor:
        return weight.abs().sum()


class L2(Penalty):
    """Half the sum of squares; its gradient equals SGD's ``weight_decay``, but adaptive optimizers rescale it."""

    def term(self, weight: Tensor) -> Tensor:
        return weight.square().sum() / 2


class Orthogonal(Penalty):
    """Squared distance of the filters' Gram matrix from the identity; soft orthogonality of arXiv:1810.09102.

    A weight (O, ...) is flattened to a matrix W (O, I). The smaller of ``W W^T`` and ``W^T W`` is used: their distances
    differ only by the constant O - I, so the gradients agree.
    """

    def term(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        rows = rows if len(rows) <= rows.shape[1] else rows.T
        with torch.autocast(weight.device.type, enabled=False):  # in bfloat16 the Gram matrix would be off by 1 %
            gram = rows @ rows.T
        return (gram - torch.eye(len(rows), dtype=gram.dtype, device=gram.device)).square().sum()
