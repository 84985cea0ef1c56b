"""Suspect labels: a ranking by predictions out of sample, without a trained net."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, normalize, one_hot, pixel_unshuffle, relu, unfold

from src.analysis.data.images import pooled, principal_axes

FILTERS, HIDDEN, COMPONENTS, FOLDS, FEW = 128, 512, 64, 5, 50  # FEW: samples below which nothing is predicted
FEATURES = 2.5e8  # numbers that are kept at once
SHARPNESS = 3.0  # of the softmax that turns outputs in [-1, 1] into probabilities


def picture_features(small: Tensor) -> Tensor:
    """Return standardized features (N, D) of pictures (N, C, S, S), uint8, with even S.

    The filters are whitened patches of the pictures themselves, a quarter of their side. Responses beyond a threshold,
    positive and negative ones, are averaged over each quadrant; Coates et al., 2011 (AISTATS, PMLR 15:215-223) and
    Coates and Ng, 2011 (ICML), section 3.3.
    """
    draw = torch.Generator().manual_seed(0)
    count = max(8, min(FILTERS, int(FEATURES / 8 / len(small))))
    side = max(2, small.shape[-1] // 8 * 2)
    sample = normalized(small[torch.randperm(len(small), generator=draw)[:2000]])
    patches = unfold(sample, side, stride=side // 2).transpose(1, 2).flatten(0, 1)
    patches = patches[torch.randperm(len(patches), generator=draw)[:50_000]]
    patches -= patches.mean(1, keepdim=True)
    variances, axes = (each.float() for each in torch.linalg.eigh((patches.T @ patches / len(patches)).double()))
    whiten = axes / (variances.clamp(min=0) + 0.1 * variances.mean() + 1e-9).sqrt() @ axes.T
    filters = normalize(patches[:count] @ whiten, dim=1) @ whiten
    filters = (filters - filters.mean(1, keepdim=True)).view(-1, small.shape[1], side, side)
    filters = pixel_unshuffle(filters, 2).contiguous(memory_format=torch.channels_last)  # convolves at every 2nd pixel
    threshold = conv2d(pixel_unshuffle(sample[:200], 2), filters).abs().median()
    features = torch.empty(len(small), 8 * len(filters) + HIDDEN, dtype=torch.bfloat16)  # half the memory
    fill_hidden_units(features[:, -HIDDEN:], small, draw)
    places = features[:, :-HIDDEN].split(25)
    for batch, place in zip(small.split(25), places, strict=True):  # 25 fit into the cache
        pixels = pixel_unshuffle(normalized(batch), 2).contiguous(memory_format=torch.channels_last)
        responses = conv2d(pixels, filters)
        both = [relu(responses - threshold), relu(-responses - threshold)]
        place[:] = torch.cat([adaptive_avg_pool2d(each, 2) for each in both], 1).flatten(1).sqrt_()
    return standardized(features)


def fill_hidden_units(units: Tensor, small: Tensor, draw: torch.Generator) -> None:
    """Write random rectified projections (N, 512) of the principal components of pictures, for whole shapes.

    Ridge regression on them is an extreme learning machine; Huang et al., 2006, doi:10.1016/j.neucom.2005.12.126.
    """
    mean, variances, axes = principal_axes(small, COMPONENTS)
    axes = axes / (variances.sum().sqrt() + 1e-9)
    weights = axes @ torch.randn(axes.shape[1], HIDDEN, generator=draw)
    bias = torch.randn(HIDDEN, generator=draw) / 2
    for batch, place in zip(small.split(1000), units.split(1000), strict=True):
        place[:] = relu((pooled(batch) - mean) @ weights + bias)


def normalized(batch: Tensor) -> Tensor:
    """Return pictures with mean 0 and std 1 each; those of little contrast keep a smaller one."""
    pixels = batch.float()
    pixels = pixels - pixels.mean((1, 2, 3), keepdim=True)
    return pixels / (pixels.std((1, 2, 3), keepdim=True) + 10)


def standardized(features: Tensor) -> Tensor:
    """Subtract the mean of each feature and divide by its std, in place; a constant feature becomes 0."""
    means, spreads = torch.tensor([[float(each.float().mean()), float(each.float().std())] for each in features.T]).T
    spreads = spreads + 1e-3 * spreads.mean() + 1e-9
    for part in features.split(1000):  # which needs no copy of all
        part.copy_((part - means) / spreads)
    return features


def out_of_sample(features: Tensor, targets: Tensor) -> Tensor:
    """Return what ridge regression predicts for each sample from the samples of the other folds, (N, K)."""
    draw = torch.Generator().manual_seed(0)
    fold = torch.randperm(len(features), generator=draw) % FOLDS
    width, mean = features.shape[1], targets.mean(0)
    members = [(fold == k).nonzero()[:, 0] for k in range(FOLDS)]
    grams, sums = torch.zeros(FOLDS, width, width), torch.zeros(FOLDS, width, targets.shape[1])
    for k, index in enumerate(members):
        own = features[index].float()
        grams[k], sums[k] = own.T @ own, own.T @ (targets[index] - mean)
    predicted = torch.empty_like(targets)
    for k, index in enumerate(members):
        gram = grams.sum(0) - grams[k]
        gram.diagonal().add_(0.01 * gram.diagonal().mean() + 1e-6)
        solution = torch.cholesky_solve(sums.sum(0) - sums[k], torch.linalg.cholesky(gram))
        predicted[index] = features[index].float() @ solution + mean
    return predicted


def rank_classes(features: Tensor, classes: Tensor) -> list[tuple[int, int, int, float]]:
    """Return index, given and suggested class, and score of samples, most suspect first.

    The score is the probability that the given class is wrong, by out-of-sample ridge regression; it only orders
    samples. Those whose given class is the most probable one are left out.
    """
    if len(features) < FEW or len(classes.unique()) < 2:
        return []
    targets = 2 * one_hot(classes).float() - 1
    probabilities = (SHARPNESS * out_of_sample(features, targets)).softmax(1)
    given = probabilities.gather(1, classes[:, None])[:, 0]
    suggested = probabilities.argmax(1)
    order = given.argsort(stable=True)
    order = order[suggested[order] != classes[order]]
    columns = (order, classes[order], suggested[order], 1 - given[order])
    return list(zip(*(each.tolist() for each in columns), strict=True))


def rank_numbers(features: Tensor, targets: Tensor) -> list[tuple[int, int, float, float, float]]:
    """Return index, column, given and predicted number, and score of samples, most suspect first.

    Of a sample's numbers (N, D) only the worst counts; the score is its residual, in standard deviations of residuals.
    """
    if len(features) < FEW:
        return []
    predicted = out_of_sample(features, targets.float())
    residuals = predicted - targets
    scores, columns = (residuals / (residuals.std(0) + 1e-9)).abs().max(1)
    order = scores.argsort(descending=True, stable=True)
    rows, worst = torch.arange(len(targets))[order], columns[order]
    found = (rows, worst, targets[rows, worst], predicted[rows, worst], scores[order])
    return list(zip(*(each.tolist() for each in found), strict=True))
