"""Metrics against scikit-learn, where a class has no samples too."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from src.tasks.metrics import Means, by_class, classification_metrics


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_means_are_exact_in_any_precision_and_leave_out_batches_without_a_finite_loss(dtype):
    means = Means()
    for i in range(1000):
        loss = torch.tensor(float("nan") if i % 10 == 3 else 1.5, dtype=dtype)
        means.add(64 if i % 2 else 32, loss, accuracy=torch.tensor(0.25 if i % 2 else 1.0))
    taken = means.take("train/", lambda sums: sums / 2)
    assert taken == {"train/loss": 1.5, "train/accuracy": (400 * 64 * 0.25 + 500 * 32) / (400 * 64 + 500 * 32)}
    assert means.take("train/", lambda sums: sums) == {}


def test_means_are_those_of_when_they_were_added_and_hold_no_graph():
    means, seen = Means(), torch.zeros(())
    for _ in range(3):
        seen += 1
        means.add(2, torch.tensor(1.0, requires_grad=True), seen=seen)
    assert not means.recent[0][0].requires_grad
    assert means.take("", lambda sums: sums) == {"loss": 1, "seen": 2}


def test_values_of_each_sample_count_as_their_mean():
    means, alone = Means(), Means()
    for hits in ([True, False, False], [True]):
        means.add(len(hits), torch.tensor(1.0), accuracy=torch.tensor(hits))
        alone.add(len(hits), torch.tensor(1.0), accuracy=torch.tensor(hits).float().mean())
    assert means.take("", lambda sums: sums) == alone.take("", lambda sums: sums) == {"loss": 1, "accuracy": 0.5}


def test_a_process_that_was_not_there_begins_with_nothing_and_so_does_a_module_that_is_restored():
    means = Means()
    means.add(4, torch.tensor(1.0))
    found = means.of_all(lambda own: own)
    means.take_over(found, rank=1)
    assert means.of_all(lambda own: own)["loss"].shape == found["loss"].shape
    means.add(4, torch.tensor(3.0))
    assert means.take("", lambda sums: sums) == {"loss": 3}
    means.add(4, torch.tensor(1.0))
    means.take_over({}, rank=0)
    assert means.take("", lambda sums: sums) == {}


def test_means_of_other_names_in_a_later_step_are_refused():
    means = Means()
    means.add(1, torch.tensor(1.0), accuracy=torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"same names in each step: \['accuracy'\], got \['f1'\]"):
        means.add(1, torch.tensor(1.0), f1=torch.tensor(1.0))


@pytest.mark.parametrize("cut", [0, 1, 64, 77])
def test_means_go_on_to_the_bit_in_each_process(cut):
    values = torch.rand(2, 100, generator=torch.Generator().manual_seed(0))
    whole, parts = [Means(), Means()], [Means(), Means()]
    for i in range(100):
        if i == cut:
            kept = [part.of_all(lambda own: own) for part in parts]
            found = {name: torch.cat([each[name] for each in kept]) for name in kept[0]}
            parts = [Means(), Means()]
            for rank in range(2):
                parts[rank].take_over(found, rank)
        for rank in range(2):
            for means in (whole[rank], parts[rank]):
                means.add(10 + i % 2, values[rank, i], accuracy=values[rank, i] ** 2)
    for rank in range(2):
        expected = whole[rank].take("", lambda sums: sums)
        assert parts[rank].take("", lambda sums: sums) == expected
        assert len(expected) == 2
        assert float(expected["loss"]) == pytest.approx(float(values[rank].mean()), rel=1e-2)
