"""Epoch means are exact in any precision and resume; AUROC equals scikit-learn's, also without samples of a class."""

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from src.tasks.metrics import EpochMeans, classification_metrics, flatten_per_class
from tests.conftest import same


def own(values: Tensor) -> Tensor:
    """Reduce or gather the values of a single process."""
    return values


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_auroc_is_the_mean_over_the_classes_with_samples():
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(60, 4, generator=generator).softmax(1)
    targets = torch.randint(0, 3, (60,), generator=generator)  # no samples of the last class
    metrics = classification_metrics(4, per_class=True)
    for batch in range(3):
        metrics.update(probs[batch::3], targets[batch::3])
    flat = flatten_per_class(metrics.compute(), list("abcd"))
    each = [roc_auc_score(targets == k, probs[:, k]) for k in range(3)]
    assert [float(flat[f"auroc/{name}"]) for name in "abc"] == pytest.approx(each)
    assert flat["auroc/d"].isnan()
    assert float(flat["auroc"]) == pytest.approx(sum(each) / 3)


def test_the_empty_batch_of_a_process_without_samples_changes_no_metric():
    probs, targets = torch.rand(30, 7, generator=torch.Generator().manual_seed(0)).softmax(1), torch.arange(30) % 7
    once, twice = (classification_metrics(7, per_class=True) for _ in range(2))
    once.update(probs, targets)
    for size in (0, 30):
        twice.update(probs[:size], targets[:size])
    assert same(once.compute(), twice.compute())


def test_metrics_per_class_are_named_or_numbered():
    metrics = {"iou": torch.tensor(0.5), "iou_each": torch.tensor([0.25, 0.75])}
    assert flatten_per_class(metrics, ["cat", "dog"]) == {"iou": 0.5, "iou/cat": 0.25, "iou/dog": 0.75}
    assert flatten_per_class(metrics, None) == {"iou": 0.5, "iou/0": 0.25, "iou/1": 0.75}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_means_are_exact_in_any_precision_and_omit_non_finite_losses(dtype):
    means = EpochMeans()
    for i in range(1000):
        loss = torch.tensor(float("nan") if i % 10 == 3 else 1.5, dtype=dtype)
        means.add(*[64 if i % 2 else 32] * 2, loss, accuracy=torch.tensor(0.25 if i % 2 else 1.0))
    computed = means.compute("train/", lambda sums: sums / 2)
    assert computed == {"train/loss": 1.5, "train/accuracy": (400 * 64 * 0.25 + 500 * 32) / (400 * 64 + 500 * 32)}
    assert means.compute("train/", own) == {}


def test_means_copy_their_values_and_hold_no_graph():
    means, counter = EpochMeans(), torch.zeros(())
    for _ in range(3):
        counter += 1
        means.add(2, 2, torch.tensor(1.0, requires_grad=True), counter=counter)
    assert not means.pending[0][0].requires_grad
    assert means.compute("", own) == {"loss": 1, "counter": 2}


def test_values_per_sample_count_as_their_mean():
    means, alone = EpochMeans(), EpochMeans()
    for hits in ([True, False, False], [True]):
        means.add(len(hits), len(hits), torch.tensor(1.0), accuracy=torch.tensor(hits))
        alone.add(len(hits), len(hits), torch.tensor(1.0), accuracy=torch.tensor(hits).float().mean())
    assert means.compute("", own) == alone.compute("", own) == {"loss": 1, "accuracy": 0.5}


def test_a_new_process_and_a_restored_module_start_from_zero():
    means = EpochMeans()
    means.add(4, 4, torch.tensor(1.0))
    state = means.gather_state(own)
    means.load_state(state, rank=1)
    assert means.gather_state(own)["loss"].shape == state["loss"].shape
    means.add(4, 4, torch.tensor(3.0))
    assert means.compute("", own) == {"loss": 3}
    means.add(4, 4, torch.tensor(1.0))
    means.load_state({}, rank=0)
    assert means.compute("", own) == {}


def test_other_names_in_a_later_step_are_refused():
    means = EpochMeans()
    means.add(1, 1, torch.tensor(1.0), accuracy=torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"same names in each step: \['accuracy'\], got \['f1'\]"):
        means.add(1, 1, torch.tensor(1.0), f1=torch.tensor(1.0))


@pytest.mark.parametrize("steps", [0, 1, 64, 77])
def test_means_resume_bit_for_bit_in_each_process(steps):
    values = torch.rand(2, 100, generator=torch.Generator().manual_seed(0))
    uninterrupted, resumed = [EpochMeans(), EpochMeans()], [EpochMeans(), EpochMeans()]
    for i in range(100):
        if i == steps:
            states = [means.gather_state(own) for means in resumed]
            state = {name: torch.cat([each[name] for each in states]) for name in states[0]}
            resumed = [EpochMeans(), EpochMeans()]
            for rank in range(2):
                resumed[rank].load_state(state, rank)
        for rank in range(2):
            for means in (uninterrupted[rank], resumed[rank]):
                means.add(*[10 + i % 2] * 2, values[rank, i], accuracy=values[rank, i] ** 2)
    for rank in range(2):
        expected = uninterrupted[rank].compute("", own)
        assert resumed[rank].compute("", own) == expected
        assert len(expected) == 2
        assert float(expected["loss"]) == pytest.approx(float(values[rank].mean()), rel=1e-2)


@pytest.mark.parametrize("steps", [0, 1, 63, 64, 77])
@pytest.mark.parametrize("failed", [1, 2, 70])
def test_restored_means_forget_the_steps_after_the_snapshot(steps, failed):
    values = torch.rand(100, generator=torch.Generator().manual_seed(0))
    repeated, expected = EpochMeans(), EpochMeans()
    for i in range(100):
        if i == steps:
            snapshot = repeated.snapshot()
            for _ in range(failed):
                repeated.add(3, 3, torch.tensor(9.0), accuracy=torch.tensor(0.0))
            repeated.restore(snapshot)
        for means in (repeated, expected):
            means.add(10, 10, values[i], accuracy=values[i] ** 2)
    assert same(repeated.gather_state(own), expected.gather_state(own))
    assert same(repeated.compute("", own), expected.compute("", own))
