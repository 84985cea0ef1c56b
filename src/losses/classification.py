"""Classification losses that torch lacks: logits (N, K) and targets, classes (N,) or soft labels (N, K), give a scalar.

FocalLoss also takes logits (N, K, H, W) and masks (N, H, W). Mixup produces soft labels. Half-precision logits are
converted to float32.
"""

from math import inf

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, multi_margin_loss, one_hot

from src import at_least_float32, require


def check_weights(name: str, weights: list[float]) -> None:
    valid = any(weights) and all(0 <= weight < inf for weight in weights)
    require(valid, f"{name} must be finite numbers of at least 0, at least one above 0, got {weights}")


class ClassWeightedLoss(nn.Module):
    """Base of losses with one number per class, (K,), in a buffer; None weights all classes equally."""

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, name: str, weight: list[float] | None) -> None:
        super().__init__()
        if weight is not None:
            check_weights(name, weight)
        self.register_buffer(name, None if weight is None else torch.tensor(weight, dtype=torch.float))


class FocalLoss(ClassWeightedLoss):
    """Cross-entropy that down-weights well-classified samples: ``-(1 - p)**gamma * log(p)``.

    arXiv:1708.02002, equation 5, with softmax instead of the sigmoid. The mean divides by the summed weights of the
    targets. At ``gamma`` 0 the loss equals ``torch.nn.CrossEntropyLoss``, except for soft labels with class weights:
    torch divides by N; here a one-hot soft label gives the same loss as its class.

    Args:
        gamma: focusing exponent, at least 0; 0 is cross-entropy.
        weight: weight of each class, (K,).
        label_smoothing: fraction of each target spread evenly over all classes, in [0, 1].
    """

    def __init__(self, gamma: float = 2.0, weight: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__("weight", weight)
        require(0 <= gamma < inf, f"gamma must be at least 0, got {gamma}")
        require(0 <= label_smoothing <= 1, f"label_smoothing must be in [0, 1], got {label_smoothing}")
        self.gamma, self.label_smoothing = gamma, label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.ndim > 2:  # a class for each pixel
            logits, targets = logits.movedim(1, -1).flatten(0, -2), targets.flatten()
        log_p = at_least_float32(logits).log_softmax(1)
        labels = soft_labels(targets, log_p)
        weight = torch.ones_like(log_p[0]) if self.weight is None else self.weight.to(log_p.dtype)
        tiny = torch.finfo(log_p.dtype).tiny  # for gamma below 1 the gradient of 0**gamma is infinite
        focus = (1 - log_p.exp()).clamp(min=tiny) ** self.gamma
        return -(smooth(labels, self.label_smoothing) * focus * log_p * weight).sum() / (labels * weight).sum()


class BinaryCrossEntropy(ClassWeightedLoss):
    """Binary cross-entropy of each class against all others, averaged over samples and classes; arXiv:2110.00476.

    Args:
        pos_weight: weight of each class's positive samples relative to its negative ones, (K,).
        label_smoothing: fraction of each target spread evenly over all classes, in [0, 1].
    """

    def __init__(self, pos_weight: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__("pos_weight", pos_weight)
        require(0 <= label_smoothing <= 1, f"label_smoothing must be in [0, 1], got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        labels = smooth(soft_labels(targets, logits), self.label_smoothing)
        return binary_cross_entropy_with_logits(logits, labels, pos_weight=self.pos_weight)


class Hinge(ClassWeightedLoss):
    """Multi-margin loss; for soft labels, the label-weighted mean over classes, which takes O(N K^2) memory.

    Args:
        margin: margin by which the target's logit must exceed every other logit, above 0.
        p: exponent of margin violations, 1 or 2.
        weight: weight of each class, (K,).
    """

    def __init__(self, margin: float = 1.0, p: int = 1, weight: list[float] | None = None) -> None:
        super().__init__("weight", weight)
        require(0 < margin < inf, f"margin must be above 0, got {margin}")
        require(p in (1, 2), f"p must be 1 or 2, got {p}")
        self.margin, self.p = margin, p

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        if not targets.is_floating_point():
            return multi_margin_loss(logits, targets, self.p, self.margin, weight)
        n, k = logits.shape
        classes = torch.arange(k, device=logits.device).repeat(n)
        copies = logits.repeat_interleave(k, 0)  # (N * K, K), one for each possible target
        losses = multi_margin_loss(copies, classes, self.p, self.margin, weight, reduction="none").view(n, k)
        return (targets * losses).sum() / n


def soft_labels(targets: Tensor, logits: Tensor) -> Tensor:
    """Return targets as labels (N, K) of the logits' dtype, one-hot if they are classes."""
    return (targets if targets.is_floating_point() else one_hot(targets, logits.shape[1])).to(logits.dtype)


def smooth(labels: Tensor, smoothing: float) -> Tensor:
    return labels * (1 - smoothing) + smoothing / labels.shape[1]
