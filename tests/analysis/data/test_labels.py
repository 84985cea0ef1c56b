"""Suspect labels: predictions out of sample, compared with scikit-learn, and planted errors."""

import torch
from sklearn.linear_model import Ridge

from src.analysis.data.labels import out_of_sample, picture_features, rank_classes, rank_numbers
from src.data import Digits


def test_predictions_are_those_of_ridge_regression_on_the_other_folds():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(100, 5, generator=draw)
    features -= features.mean(0)
    targets = torch.randn(100, 2, generator=draw)
    targets -= targets.mean(0)
    fold = torch.randperm(100, generator=torch.Generator().manual_seed(0)) % 5
    predicted = out_of_sample(features, targets)
    for k in range(5):
        other = features[fold != k]
        strength = 0.01 * float((other.T @ other).diagonal().mean()) + 1e-6
        model = Ridge(alpha=strength, fit_intercept=False).fit(other.numpy(), targets[fold != k].numpy())
        expected = torch.from_numpy(model.predict(features[fold == k].numpy()))
        assert torch.allclose(predicted[fold == k], expected.float(), atol=1e-4)


def test_wrong_labels_of_digits_are_ranked_first():
    images, classes = Digits().load(train=True)
    features = picture_features(images)
    wrong = torch.arange(0, 1400, 70)
    given = classes.clone()
    given[wrong] = (given[wrong] + 3) % 10
    ranked = rank_classes(features, given)
    assert len({i for i, *_ in ranked[:40]} & {*wrong.tolist()}) >= 18
    assert all(other == classes[i] for i, _, other, _ in ranked[:10])


def test_a_wrong_number_is_ranked_first():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(200, 3, generator=draw)
    targets = torch.stack([features.sum(1), features[:, 0]], 1)
    targets[17, 1] = 40
    index, column, given, other, _ = rank_numbers(features, targets)[0]
    assert (index, column, given) == (17, 1, 40)
    assert abs(other - float(features[17, 0])) < 2


def test_too_few_samples_or_classes_are_not_ranked():
    features, classes = torch.randn(60, 3), torch.zeros(60, dtype=torch.long)
    assert rank_classes(features, classes) == []
    assert rank_classes(features[:20], torch.arange(20) % 2) == []
    assert rank_numbers(features[:20], torch.randn(20, 1)) == []
