"""Losses that torch lacks. Targets are classes (N,) or soft labels (N, K), as mixup makes them."""

from math import inf

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, multi_margin_loss, one_hot


class Weighted(nn.Module):
    """A loss with a number for each class, kept as a buffer that is None where all classes count alike."""

    def __init__(self, name: str, weight: list[float] | None) -> None:
        super().__init__()
        if weight is not None and not (any(weight) and all(0 <= w < inf for w in weight)):
            raise ValueError(f"{name} must be numbers of at least 0, one of them above it, got {weight}")
        self.register_buffer(name, None if weight is None else torch.tensor(weight, dtype=torch.float))


class FocalLoss(Weighted):
    """Cross-entropy in which a class counts the less the surer it is: ``-(1 - p)**gamma * log(p)``.

    The mean is weighted, divided by the summed weights of the targets. So at ``gamma`` 0 this is
    ``torch.nn.CrossEntropyLoss``, but for soft labels with weights: there torch divides by N, here a soft label that
    is one-hot counts as its class does. arXiv:1708.02002, equation 5, with softmax in place of the sigmoid.

    Args:
        gamma: how much less, at least 0; 0 is cross-entropy.
        weight: weight of each class, (K,).
        label_smoothing: share of each target that is spread evenly over all classes, in [0, 1].

    Shape:
        logits (N, K), targets (N,) or (N, K) -> ().
    """

    weight: Tensor | None

    def __init__(self, gamma: float = 2.0, weight: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__("weight", weight)
        if not 0 <= gamma < inf:
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        self.gamma, self.label_smoothing = gamma, label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p = precise(logits).log_softmax(1)
        labels = soft(targets, log_p)
        weight = torch.ones_like(log_p[0]) if self.weight is None else self.weight.to(log_p.dtype)
        tiny = torch.finfo(log_p.dtype).tiny  # at 0 the slope of a root, gamma below 1, is infinite
        unsure = (1 - log_p.exp()).clamp(min=tiny) ** self.gamma
        return -(smooth(labels, self.label_smoothing) * unsure * log_p * weight).sum() / (labels * weight).sum()


class BinaryCrossEntropy(Weighted):
    """Binary cross-entropy of each class against all others, mean over samples and classes; arXiv:2110.00476.

    Args:
        pos_weight: how much more the samples of each class count than those of others, (K,).
        label_smoothing: share of each target that is spread evenly over all classes, in [0, 1].

    Shape:
        logits (N, K), targets (N,) or (N, K) -> ().
    """

    pos_weight: Tensor | None

    def __init__(self, pos_weight: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__("pos_weight", pos_weight)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = precise(logits)
        labels = smooth(soft(targets, logits), self.label_smoothing)
        return binary_cross_entropy_with_logits(logits, labels, pos_weight=self.pos_weight)


class Hinge(Weighted):
    """``torch.nn.MultiMarginLoss``; of soft labels its mean over classes, weighted by the labels, in N * K * K numbers.

    Args:
        margin: how far the logit of the target must be above each other one to cost nothing, above 0.
        p: exponent of what is missing, 1 or 2.
        weight: weight of each class, (K,).

    Shape:
        logits (N, K), targets (N,) or (N, K) -> ().
    """

    weight: Tensor | None

    def __init__(self, margin: float = 1.0, p: int = 1, weight: list[float] | None = None) -> None:
        super().__init__("weight", weight)
        if not 0 < margin < inf:
            raise ValueError(f"margin must be above 0, got {margin}")
        if p not in (1, 2):
            raise ValueError(f"p must be 1 or 2, got {p}")
        self.margin, self.p = margin, p

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = precise(logits)
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        if not targets.is_floating_point():
            return multi_margin_loss(logits, targets, self.p, self.margin, weight)
        n, k = logits.shape
        classes = torch.arange(k, device=logits.device).repeat(n)
        copies = logits.repeat_interleave(k, 0)  # (N * K, K), one for each class that could be the target
        each = multi_margin_loss(copies, classes, self.p, self.margin, weight, reduction="none").view(n, k)
        return (targets * each).sum() / n


def precise(logits: Tensor) -> Tensor:
    """Return logits of half precision as float32."""
    return logits.float() if logits.dtype in (torch.half, torch.bfloat16) else logits


def soft(targets: Tensor, logits: Tensor) -> Tensor:
    """Return classes as one-hot labels like the logits, and soft labels as they are."""
    return (targets if targets.is_floating_point() else one_hot(targets, logits.shape[1])).to(logits.dtype)


def smooth(labels: Tensor, share: float) -> Tensor:
    return labels * (1 - share) + share / labels.shape[1]
