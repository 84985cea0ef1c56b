"""Schedules are those of torch of the same kind, over the length of the run."""

import re
from fractions import Fraction
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler

from src.optim import Cosine, Exponential, Linear, MultiStep, OneCycle, Polynomial, RunLR, Step

LR, STEPS = 0.2, 30


def sgd(*rates: float) -> SGD:
    return SGD([{"params": [nn.Parameter(torch.ones(2))], "lr": lr} for lr in rates or (LR,)])


def rates(schedule: lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """Return the learning rate of each step."""
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def run(schedule, total_steps: int, steps: int) -> list[float]:
    made = schedule(sgd())
    made.total_steps = total_steps
    return rates(made, steps)


def one_cycle(optimizer, rise: float, start: float, final: float):
    """Torch's ends with the last step, ours with the end of the run, where another would begin."""
    pct_start = (rise * STEPS + 1) / (STEPS + 1)
    factors = {"div_factor": 1 / start, "final_div_factor": start / final if final else float("inf")}
    return lr_scheduler.OneCycleLR(optimizer, LR, STEPS + 1, pct_start=pct_start, cycle_momentum=False, **factors)


CASES = {
    "cosine": (Cosine, partial(lr_scheduler.CosineAnnealingLR, T_max=STEPS)),
    "cosine to a rest": (
        partial(Cosine, final=0.25),
        partial(lr_scheduler.CosineAnnealingLR, T_max=STEPS, eta_min=0.25 * LR),
    ),
    "cosine with restarts": (
        partial(Cosine, final=0.1, cycles=3),
        partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=10, eta_min=0.1 * LR),
    ),
    "linear": (Linear, partial(lr_scheduler.LinearLR, start_factor=1, end_factor=0, total_iters=STEPS)),
    "linear to a rest": (
        partial(Linear, final=0.25),
        partial(lr_scheduler.LinearLR, start_factor=1, end_factor=0.25, total_iters=STEPS),
    ),
    "polynomial": (Polynomial, partial(lr_scheduler.PolynomialLR, power=2.0, total_iters=STEPS)),
    "root": (partial(Polynomial, power=0.5), partial(lr_scheduler.PolynomialLR, power=0.5, total_iters=STEPS)),
    "exponential": (Exponential, partial(lr_scheduler.ExponentialLR, gamma=0.01 ** (1 / STEPS))),
    "step": (Step, partial(lr_scheduler.StepLR, step_size=9)),
    "many steps": (partial(Step, every=0.1, gamma=0.5), partial(lr_scheduler.StepLR, step_size=3, gamma=0.5)),
    "milestones": (
        partial(MultiStep, milestones=[0.3, 0.6, 0.7], gamma=0.5),
        partial(lr_scheduler.MultiStepLR, milestones=[9, 18, 21], gamma=0.5),
    ),
    "one cycle": (OneCycle, partial(one_cycle, rise=0.3, start=0.04, final=0.0)),
    "one steep cycle": (
        partial(OneCycle, rise=0.1, start=0.5, final=0.1),
        partial(one_cycle, rise=0.1, start=0.5, final=0.1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_schedules_are_those_of_torch(name):
    ours, theirs = CASES[name]
    expected = rates(theirs(sgd()), STEPS)
    assert run(ours, STEPS, STEPS) == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 2


def test_a_polynomial_to_a_rest_is_that_share_of_the_way():
    whole = run(Polynomial, STEPS, STEPS)
    assert run(partial(Polynomial, final=0.25), STEPS, STEPS) == pytest.approx([0.25 * LR + 0.75 * lr for lr in whole])


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        (partial(Cosine, final=0.1), 0.1),
        (partial(Cosine, final=0.1, cycles=4), 0.1),
        (partial(Linear, final=0.3), 0.3),
        (partial(Polynomial, final=0.3), 0.3),
        (Exponential, 0.01),
        (partial(Step, every=0.25, gamma=0.5), 0.5**4),
        (partial(MultiStep, milestones=[0.5, 1.0], gamma=0.5), 0.25),
        (partial(OneCycle, final=0.2), 0.2),
    ],
)
def test_the_rate_stays_at_its_end_after_the_run(schedule, last):
    assert run(schedule, 5, 9)[5:] == pytest.approx([last * LR] * 4)


@pytest.mark.parametrize("share", ["0.3", "0.1", "0.07", "0.29", "0.6"])
def test_drops_come_with_the_very_step_at_which_their_share_of_the_run_is_over(share):
    for total in (7, 10, 30, 90, 100, 1000, 12345):
        done = [Fraction(step, total) for step in range(total + 1)]
        step, multi = Step(sgd(), every=float(share)), MultiStep(sgd(), milestones=[float(share)])
        assert [step.factor(float(each)) for each in done] == [0.1 ** int(each / Fraction(share)) for each in done]
        assert [multi.factor(float(each)) for each in done] == [0.1 if each >= Fraction(share) else 1 for each in done]


@pytest.mark.parametrize("cycles", [2, 3, 7, 10, 49])
def test_restarts_come_with_the_very_step_at_which_a_cycle_is_over(cycles):
    schedule = Cosine(sgd(), cycles=cycles)
    assert [schedule.factor(8 * cycle / (8 * cycles)) for cycle in range(cycles)] == pytest.approx([1.0] * cycles)
    assert schedule.factor(1) == 0


def test_groups_keep_their_ratio():
    schedule = Linear(sgd(0.4, 0.1))
    schedule.total_steps = 4
    rates(schedule, 1)
    assert [group["lr"] for group in schedule.optimizer.param_groups] == pytest.approx([0.3, 0.075])
    assert schedule.get_last_lr() == pytest.approx([0.3, 0.075])


def test_a_schedule_of_ones_own_implements_a_factor():
    class Half(RunLR):
        def factor(self, done: float) -> float:
            return 0.5 if done >= 0.5 else 1.0

    assert run(Half, 4, 4) == [LR, LR, LR / 2, LR / 2]
    with pytest.raises(NotImplementedError):
        RunLR(sgd())


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (Cosine, {"final": 1.1}, "final must be in [0, 1], got 1.1"),
        (Cosine, {"cycles": 0}, "cycles must be at least 1, got 0"),
        (Linear, {"final": -0.1}, "final must be in [0, 1], got -0.1"),
        (Polynomial, {"final": 2}, "final must be in [0, 1], got 2"),
        (Polynomial, {"power": 0}, "power must be above 0, got 0"),
        (Exponential, {"final": 0}, "final must be in (0, 1], got 0"),
        (Step, {"every": 0}, "every must be above 0, got 0"),
        (Step, {"gamma": 0}, "gamma must be above 0, got 0"),
        (MultiStep, {"milestones": [0.5, 30]}, "milestones must be shares of the run in [0, 1], got [0.5, 30]"),
        (MultiStep, {"milestones": [0.5], "gamma": -1}, "gamma must be above 0, got -1"),
        (OneCycle, {"rise": 1}, "rise must be in (0, 1), got 1"),
        (OneCycle, {"start": 1.1}, "start and final must be in [0, 1], got 1.1 and 0.0"),
    ],
)
def test_invalid_arguments_are_refused(schedule, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        schedule(sgd(), **arguments)
