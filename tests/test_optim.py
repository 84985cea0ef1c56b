"""Weight decay reaches the right parameters; schedules are torch's, over the length of the run."""

import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, ReduceLROnPlateau

from src import UserError
from src.optim import Cosine, Linear, param_groups, with_warmup

LR = 0.2


def sgd() -> SGD:
    return SGD([nn.Parameter(torch.ones(2))], lr=LR)


def rates(schedule, optimizer, steps: int) -> list[float]:
    """Return the learning rate of each step."""
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def run(schedule, warmup_steps: int, total_steps: float, steps: int) -> list[float]:
    optimizer = sgd()
    return rates(with_warmup(optimizer, schedule, warmup_steps, total_steps), optimizer, steps)


def test_biases_and_norms_are_spared_weight_decay_and_each_parameter_is_there_once():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[4].weight = net[3].weight  # shared
    net[0].bias.requires_grad_(False)
    decayed, exempt = SGD(param_groups(net), lr=LR, weight_decay=0.1).param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0)
    assert set(decayed["params"]) == {net[0].weight, net[3].weight}
    given = decayed["params"] + exempt["params"]
    assert len(given) == len(set(given))
    assert set(given) == {p for p in net.parameters() if p.requires_grad}


def test_a_group_without_parameters_is_left_out():
    assert [len(group["params"]) for group in param_groups(nn.Linear(2, 2, bias=False))] == [1]


@pytest.mark.parametrize("final", [0, 0.25])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Cosine, lambda optimizer, final: CosineAnnealingLR(optimizer, T_max=30, eta_min=final * LR)),
        (Linear, lambda optimizer, final: LinearLR(optimizer, start_factor=1, end_factor=final, total_iters=30)),
    ],
)
def test_schedules_are_those_of_torch(ours, theirs, final):
    optimizer = sgd()
    expected = rates(theirs(optimizer, final), optimizer, 31)
    assert run(partial(ours, final=final), 0, 30, 31) == pytest.approx(expected)
    assert expected[-1] == pytest.approx(final * LR)


def test_the_rate_stays_at_its_end_after_the_run():
    assert run(partial(Cosine, final=0.1), 0, 5, 9)[5:] == pytest.approx([0.1 * LR] * 4)


def test_a_warm_up_rises_linearly_and_the_schedule_follows_for_the_rest_of_the_run():
    found = run(Linear, 4, 24, 24)
    assert found[:4] == pytest.approx([LR * share for share in (0.2, 0.4, 0.6, 0.8)])
    assert found[4:] == pytest.approx([LR * (1 - step / 20) for step in range(20)])


def test_a_warm_up_alone_ends_at_the_base_rate():
    assert run(None, 3, 10, 6) == pytest.approx([LR * share for share in (0.25, 0.5, 0.75, 1, 1, 1)])


def test_a_run_without_end_keeps_the_base_rate():
    assert run(Cosine, 0, float("inf"), 3) == pytest.approx([LR] * 3)


def test_no_schedule_and_no_warm_up_is_no_schedule():
    assert with_warmup(sgd(), None, 0, 10) is None


@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_a_continued_run_that_became_longer_follows_its_new_length(warmup_steps):
    optimizer = sgd()
    first = with_warmup(optimizer, Cosine, warmup_steps, 20)
    rates(first, optimizer, 10)
    stored = io.BytesIO()
    torch.save([optimizer.state_dict(), first.state_dict()], stored)
    stored.seek(0)
    for_optimizer, for_schedule = torch.load(stored, weights_only=True)
    optimizer = sgd()
    second = with_warmup(optimizer, Cosine, warmup_steps, 40)
    optimizer.load_state_dict(for_optimizer)
    second.load_state_dict(for_schedule)
    assert rates(second, optimizer, 30)[1:] == pytest.approx(run(Cosine, warmup_steps, 40, 40)[11:])


def test_plateau_comes_alone():
    assert isinstance(with_warmup(sgd(), ReduceLROnPlateau, 0, 10), ReduceLROnPlateau)
    with pytest.raises(ValueError, match="warmup_steps must be 0 with ReduceLROnPlateau"):
        with_warmup(sgd(), ReduceLROnPlateau, 1, 10)


def test_a_negative_warm_up_is_refused():
    with pytest.raises(UserError, match="warmup_steps must be at least 0, got -1"):
        with_warmup(SGD(nn.Linear(1, 1).parameters(), 0.1), Cosine, -1, 10)
