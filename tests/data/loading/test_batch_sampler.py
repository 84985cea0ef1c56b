"""BatchSampler: each sample once per epoch, or each class equally often."""

import pytest
import torch

from src.data.loading.loader import BatchSampler

CLASSES = torch.tensor([0] * 400 + [1] * 80 + [2] * 20)


def make(sampling: str, **settings) -> BatchSampler:
    defaults = {"batch_size": 32, "shuffle": True, "classes": CLASSES}
    return BatchSampler(500, **{**defaults, "sampling": sampling, **settings})


def epoch(sampler: BatchSampler, number: int = 0) -> list[torch.Tensor]:
    sampler.set_epoch(number)
    return list(sampler)


def test_weighted_sampling_makes_classes_equally_likely():
    drawn = torch.cat([torch.cat(epoch(make("weighted"), e)) for e in range(20)])
    fractions = CLASSES[drawn].bincount() / len(drawn)
    assert fractions.tolist() == pytest.approx([1 / 3] * 3, abs=0.025)  # 5 standard deviations
    assert len(drawn) == 20 * 500


def test_balanced_batches_have_equal_class_counts():
    for batch in epoch(make("balanced")):
        counts = CLASSES[batch].bincount(minlength=3)
        assert counts.max() - counts.min() <= 2


@pytest.mark.parametrize("sampling", ["weighted", "balanced"])
def test_only_small_classes_are_repeated_and_evenly(sampling):
    uses = torch.cat(epoch(make(sampling))).bincount(minlength=500)
    assert uses[:400].max() == 1
    for k in (1, 2):
        assert uses[k == CLASSES].max() - uses[k == CLASSES].min() <= 1


@pytest.mark.parametrize("sampling", ["weighted", "balanced"])
def test_a_balanced_order_depends_only_on_seed_and_epoch(sampling):
    first, again = (torch.cat(epoch(make(sampling), 3)) for _ in range(2))
    assert first.equal(again)
    assert not first.equal(torch.cat(epoch(make(sampling), 4)))
    assert not first.equal(torch.cat(epoch(make(sampling, seed=1), 3)))


@pytest.mark.parametrize("sampling", ["shuffled", "weighted", "balanced"])
def test_processes_divide_the_batches_of_an_epoch(sampling):
    single = epoch(make(sampling, batch_size=64))
    ranks = [epoch(make(sampling, rank=rank, world_size=2)) for rank in range(2)]
    for batch, first, second in zip(single, *ranks, strict=True):
        assert sorted(batch.tolist()) == sorted([*first.tolist(), *second.tolist()])


def test_batches_of_each_process_are_balanced():
    for rank in range(2):
        for batch in epoch(make("balanced", rank=rank, world_size=2)):
            counts = CLASSES[batch].bincount(minlength=3)
            assert counts.max() - counts.min() <= 2


def test_a_frozen_sampler_repeats_its_first_epoch():
    sampler = BatchSampler(500, 32, shuffle=True)
    first = torch.cat(epoch(sampler))
    sampler.frozen = True
    assert torch.cat(epoch(sampler, 3)).equal(first)


def test_an_unknown_sampling_is_refused():
    with pytest.raises(ValueError, match="sampling must be one of shuffled, weighted, balanced, got balancd"):
        make("balancd")


def test_shuffled_sampling_uses_each_sample_once():
    assert torch.cat(epoch(make("shuffled"))).sort().values.equal(torch.arange(500))
