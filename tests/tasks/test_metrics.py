"""Metrics against scikit-learn, where a class has no samples too."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from src.tasks.metrics import by_class, classification_metrics


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_auroc_is_the_mean_over_the_classes_that_have_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(60, 4, generator=generator).softmax(1)
    targets = torch.randint(0, 3, (60,), generator=generator)  # the last class is absent
    metrics = classification_metrics(4, each_class=True)
    for part in range(3):
        metrics.update(probs[part::3], targets[part::3])
    flat = by_class(metrics.compute(), list("abcd"))
    each = [roc_auc_score(targets == k, probs[:, k]) for k in range(3)]
    assert [float(flat[f"auroc/{name}"]) for name in "abc"] == pytest.approx(each)
    assert flat["auroc/d"].isnan()
    assert float(flat["auroc"]) == pytest.approx(sum(each) / 3)
