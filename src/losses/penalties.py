"""Terms that are added to the training loss; each is called with the net."""

import re

import torch
from torch import Tensor, nn

from src import UserError


class Penalty:
    """A sum of terms over the weights of a net: the trained parameters with two or more axes. Subclasses set ``term``.

    Args:
        weight: factor of the sum, at least 0.
        match: regular expression that the whole name of a weight must match, such as ``features.*``.

    Raises:
        UserError: when called with a net that has no such weight.
    """

    def __init__(self, weight: float, match: str = ".*") -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be at least 0, got {weight}")
        try:
            self.pattern = re.compile(match)
        except re.error as error:
            raise ValueError(f"match must be a regular expression, got {match!r} ({error})") from None
        self.weight = weight

    def term(self, weight: Tensor) -> Tensor:
        """Return the penalty of one weight, ()."""
        raise NotImplementedError

    def __call__(self, net: nn.Module) -> Tensor:
        weights = {name: p for name, p in net.named_parameters() if p.requires_grad and p.ndim > 1}
        terms = [self.term(weight) for name, weight in weights.items() if self.pattern.fullmatch(name)]
        if not terms:
            names = ", ".join([*list(weights)[:5], *["..."][: len(weights) > 5]])
            raise UserError(f"match must be the whole name of a weight ({names}), got {self.pattern.pattern}")
        return self.weight * torch.stack(terms).sum()


class L1(Penalty):
    """Sum of absolute values; drives weights to zero."""

    def term(self, weight: Tensor) -> Tensor:
        return weight.abs().sum()


class L2(Penalty):
    """Half the sum of squares: the gradient is that of SGD's ``weight_decay``, but adaptive optimizers rescale it."""

    def term(self, weight: Tensor) -> Tensor:
        return weight.square().sum() / 2


class Orthogonal(Penalty):
    """Squared distance of the Gram matrix of filters from the identity; arXiv:1810.09102, soft orthogonality.

    A weight (O, ...) is a matrix W (O, I), I the product of the other axes. Of ``W W^T`` and ``W^T W`` the smaller one
    is compared: distances differ by the constant O - I, gradients not at all.
    """

    def term(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        rows = rows if len(rows) <= rows.shape[1] else rows.T
        with torch.autocast(weight.device.type, enabled=False):  # a Gram matrix of bfloat16 is off by 1 %
            gram = rows @ rows.T
        return (gram - torch.eye(len(rows), dtype=gram.dtype, device=gram.device)).square().sum()
