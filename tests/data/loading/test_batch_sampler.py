"""Which samples an epoch holds: each once, or each class equally often."""

import pytest
import torch

from src.data.order import Order

CLASSES = torch.tensor([0] * 400 + [1] * 80 + [2] * 20)


def evened(sampling: str, **settings) -> Order:
    return Order(500, **{"batch_size": 32, "shuffle": True, "classes": CLASSES, "sampling": sampling, **settings})


def epoch(order: Order, number: int = 0) -> list[torch.Tensor]:
    order.set_epoch(number)
    return list(order)


def test_weighted_sampling_makes_all_classes_equally_likely():
    drawn = torch.cat([torch.cat(epoch(evened("weighted"), e)) for e in range(20)])
    shares = CLASSES[drawn].bincount() / len(drawn)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.025)  # 5 standard deviations
    assert len(drawn) == 20 * 500


def test_balanced_batches_hold_equally_many_of_each_class():
    for batch in epoch(evened("balanced")):
        counts = CLASSES[batch].bincount(minlength=3)
        assert counts.max() - counts.min() <= 2


@pytest.mark.parametrize("sampling", ["weighted", "balanced"])
def test_a_small_class_is_repeated_evenly_and_a_large_one_used_without_repetition(sampling):
    uses = torch.cat(epoch(evened(sampling))).bincount(minlength=500)
    assert uses[:400].max() == 1
    for k in (1, 2):
        assert uses[k == CLASSES].max() - uses[k == CLASSES].min() <= 1


@pytest.mark.parametrize("sampling", ["weighted", "balanced"])
def test_an_evened_order_depends_on_seed_and_epoch_alone(sampling):
    first, again = (torch.cat(epoch(evened(sampling), 3)) for _ in range(2))
    assert first.equal(again)
    assert not first.equal(torch.cat(epoch(evened(sampling), 4)))
    assert not first.equal(torch.cat(epoch(evened(sampling, seed=1), 3)))


@pytest.mark.parametrize("sampling", ["shuffled", "weighted", "balanced"])
def test_processes_divide_an_epoch_among_them(sampling):
    whole = epoch(evened(sampling, batch_size=64))
    parts = [epoch(evened(sampling, rank=rank, world_size=2)) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(batch.tolist()) == sorted([*first.tolist(), *second.tolist()])


def test_batches_of_each_process_are_balanced_too():
    for rank in range(2):
        for batch in epoch(evened("balanced", rank=rank, world_size=2)):
            counts = CLASSES[batch].bincount(minlength=3)
            assert counts.max() - counts.min() <= 2


def test_a_frozen_order_is_the_same_in_each_epoch():
    order = Order(500, 32, shuffle=True)
    first = torch.cat(epoch(order))
    order.frozen = True
    assert torch.cat(epoch(order, 3)).equal(first)


def test_another_sampling_is_refused():
    with pytest.raises(ValueError, match="sampling must be one of shuffled, weighted, balanced, got balancd"):
        evened("balancd")


def test_shuffled_sampling_takes_each_sample_once():
    assert torch.cat(epoch(evened("shuffled"))).sort().values.equal(torch.arange(500))
