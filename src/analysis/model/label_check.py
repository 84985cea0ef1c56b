"""Do labels depend on inputs? Neighbors in pixels or numbers have similar labels, unless these were shuffled."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from src.analysis.model.subject import Check, tensors

NEIGHBORS, SHUFFLES = 5, 50
FEWEST = 100  # samples that can tell; 320 photos of CIFAR-10 have a score of 13
SCORE = 4.0  # standard deviations above shuffled labels; shuffled ones reach it once in 30,000 times


def labels_depend_on_inputs(inputs: Tensor, labels: Tensor) -> Check:
    """Compare how similar the labels of neighbors are with the same of shuffled labels, a permutation test.

    Labels are classes (N,), integers; numbers or 0 and 1 for each class, (N, D); or masks (N, H, W) of images.
    """
    n = len(inputs)
    if n < FEWEST:
        return Check(None, f"{n} samples are too few to tell")
    similar = mask_contrast(inputs, labels) if labels.ndim > 2 else agreement(inputs, labels)
    generator = torch.Generator().manual_seed(0)
    value = similar(torch.arange(n))
    null = torch.tensor([similar(torch.randperm(n, generator=generator)) for _ in range(SHUFFLES)])
    score = (value - float(null.mean())) / max(float(null.std()), 1e-12)
    figure = f"{score:.1f} std above shuffled labels, of {n:,} samples"
    return Check(score > SCORE, figure, "look for labels that were shuffled or sorted apart from their inputs")


def agreement(inputs: Tensor, labels: Tensor) -> Any:
    """Return a function of an order (N,) of the labels: the share of neighbors of a sample with its class.

    For numbers, it is the mean product of standardized numbers.
    """
    x = inputs.float()
    image = x.ndim == 4 and min(x.shape[2:]) > 1
    x = adaptive_avg_pool2d(x, 16) if image and min(x.shape[2:]) > 16 else x
    spread = x.std() if image else x.std(0)  # the columns of a table have different units
    x = ((x - x.mean(0)) / spread.clamp(min=1e-12)).flatten(1)
    nearest = torch.cdist(x, x).fill_diagonal_(torch.inf).topk(NEIGHBORS, largest=False).indices
    if labels.ndim == 1 and not labels.is_floating_point():
        return lambda order: float((labels[order][:, None] == labels[order][nearest]).float().mean())
    y = labels.float().view(len(labels), -1)
    y = (y - y.mean(0)) / y.std(0).clamp(min=1e-12)
    return lambda order: float((y[order][:, None] * y[order][nearest]).sum(2).mean())


def mask_contrast(images: Tensor, masks: Tensor) -> Any:
    """Return a function of an order (N,) of the masks: the share of the variance of gray values they explain."""
    gray = images.float().mean(1).flatten(1)
    gray = gray - gray.mean(1, keepdim=True)
    flat = masks.flatten(1).long()
    classes = int(flat.max()) + 1

    def explained(order: Tensor) -> float:
        index = flat[order]
        counts = torch.zeros(len(flat), classes).scatter_add_(1, index, torch.ones_like(gray)).clamp(min=1)
        sums = torch.zeros(len(flat), classes).scatter_add_(1, index, gray)
        return float(((sums**2 / counts).sum(1) / gray.square().sum(1).clamp(min=1e-12)).mean())

    return explained


def inputs_and_labels(batches: list[Any]) -> tuple[Tensor, Tensor] | None:
    """Return the inputs and labels of batches that consist of two tensors, else None."""
    pairs = [[*tensors(batch)] for batch in batches]
    for found in pairs:
        if len(found) != 2 or not found[0].is_floating_point() or len(found[0]) != len(found[1]) or found[0].ndim < 2:
            return None
    try:
        x, y = (torch.cat([each.cpu() for each in column]) for column in zip(*pairs, strict=True))
    except RuntimeError:  # of several sizes
        return None
    return (x, y) if y.ndim < 4 else None
