"""Schedules agree with torch's, over the length of the run, and follow a linear warm-up."""

import io
import re
from fractions import Fraction
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from src import UserError
from src.optim import Cosine, Exponential, Linear, MultiStep, OneCycle, Polynomial, RunLR, Step, with_warmup

LR, STEPS = 0.2, 30
SCHEDULES = [
    Cosine,
    partial(Cosine, cycles=2),
    Linear,
    Polynomial,
    Exponential,
    Step,
    partial(MultiStep, milestones=[0.5, 0.75]),
    OneCycle,
]


def sgd(*learning_rates: float) -> SGD:
    return SGD([{"params": [nn.Parameter(torch.ones(2))], "lr": lr} for lr in learning_rates or (LR,)])


def take_steps(schedule: LRScheduler, steps: int) -> list[float]:
    """Return the learning rate of each step."""
    rates = []
    for _ in range(steps):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return rates


def built(schedule, total_steps: float, warmup_steps: int) -> LRScheduler:
    (config,) = with_warmup(sgd(), schedule, warmup_steps, total_steps)
    return config["scheduler"]


def run(schedule, total_steps: float, steps: int, warmup_steps: int = 0) -> list[float]:
    """Return the learning rate of each of the first steps of a run."""
    return take_steps(built(schedule, total_steps, warmup_steps), steps)


def torch_one_cycle(optimizer: Optimizer, pct_start: float, start_ratio: float, final_ratio: float) -> LRScheduler:
    """Torch's cycle ends with the last step; ours ends one step later, with the run."""
    pct_start = (pct_start * STEPS + 1) / (STEPS + 1)
    final_div_factor = start_ratio / final_ratio if final_ratio else float("inf")
    factors = {"div_factor": 1 / start_ratio, "final_div_factor": final_div_factor}
    return lr_scheduler.OneCycleLR(optimizer, LR, STEPS + 1, pct_start=pct_start, cycle_momentum=False, **factors)


CASES = {
    "cosine": (Cosine, partial(lr_scheduler.CosineAnnealingLR, T_max=STEPS)),
    "cosine with final ratio": (
        partial(Cosine, final_ratio=0.25),
        partial(lr_scheduler.CosineAnnealingLR, T_max=STEPS, eta_min=0.25 * LR),
    ),
    "cosine with restarts": (
        partial(Cosine, final_ratio=0.1, cycles=3),
        partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=10, eta_min=0.1 * LR),
    ),
    "linear": (Linear, partial(lr_scheduler.LinearLR, start_factor=1, end_factor=0, total_iters=STEPS)),
    "linear with final ratio": (
        partial(Linear, final_ratio=0.25),
        partial(lr_scheduler.LinearLR, start_factor=1, end_factor=0.25, total_iters=STEPS),
    ),
    "polynomial": (Polynomial, partial(lr_scheduler.PolynomialLR, power=2.0, total_iters=STEPS)),
    "square root": (partial(Polynomial, power=0.5), partial(lr_scheduler.PolynomialLR, power=0.5, total_iters=STEPS)),
    "exponential": (Exponential, partial(lr_scheduler.ExponentialLR, gamma=0.01 ** (1 / STEPS))),
    "step": (Step, partial(lr_scheduler.StepLR, step_size=9)),
    "many steps": (partial(Step, step_fraction=0.1, gamma=0.5), partial(lr_scheduler.StepLR, step_size=3, gamma=0.5)),
    "milestones": (
        partial(MultiStep, milestones=[0.3, 0.6, 0.7], gamma=0.5),
        partial(lr_scheduler.MultiStepLR, milestones=[9, 18, 21], gamma=0.5),
    ),
    "one cycle": (OneCycle, partial(torch_one_cycle, pct_start=0.3, start_ratio=0.04, final_ratio=0.0)),
    "one cycle with early peak": (
        partial(OneCycle, pct_start=0.1, start_ratio=0.5, final_ratio=0.1),
        partial(torch_one_cycle, pct_start=0.1, start_ratio=0.5, final_ratio=0.1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_schedules_agree_with_torch(name):
    ours, theirs = CASES[name]
    expected = take_steps(theirs(sgd()), STEPS)
    assert run(ours, STEPS, STEPS) == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 2


def test_polynomial_decay_is_rescaled_to_its_final_ratio():
    to_zero = run(Polynomial, STEPS, STEPS)
    rescaled = [0.25 * LR + 0.75 * lr for lr in to_zero]
    assert run(partial(Polynomial, final_ratio=0.25), STEPS, STEPS) == pytest.approx(rescaled)


@pytest.mark.parametrize(
    ("schedule", "final_ratio"),
    [
        (partial(Cosine, final_ratio=0.1), 0.1),
        (partial(Cosine, final_ratio=0.1, cycles=4), 0.1),
        (partial(Linear, final_ratio=0.3), 0.3),
        (partial(Polynomial, final_ratio=0.3), 0.3),
        (Exponential, 0.01),
        (partial(Step, step_fraction=0.25, gamma=0.5), 0.5**4),
        (partial(MultiStep, milestones=[0.5, 1.0], gamma=0.5), 0.25),
        (partial(OneCycle, final_ratio=0.2), 0.2),
    ],
)
def test_the_learning_rate_stays_constant_after_the_run(schedule, final_ratio):
    assert run(schedule, 5, 9)[5:] == pytest.approx([final_ratio * LR] * 4)


@pytest.mark.parametrize("fraction", ["0.3", "0.1", "0.07", "0.29", "0.6"])
def test_drops_happen_at_the_exact_step(fraction):
    step, multi_step = Step(sgd(), step_fraction=float(fraction)), MultiStep(sgd(), milestones=[float(fraction)])
    exact = Fraction(fraction)
    for total in (7, 10, 30, 90, 100, 1000, 12345):
        progress = [Fraction(number, total) for number in range(total + 1)]
        assert [step.factor(float(p)) for p in progress] == [0.1 ** int(p / exact) for p in progress]
        assert [multi_step.factor(float(p)) for p in progress] == [0.1 if p >= exact else 1 for p in progress]


@pytest.mark.parametrize("cycles", [2, 3, 7, 10, 49])
def test_restarts_happen_at_the_exact_step(cycles):
    schedule = Cosine(sgd(), cycles=cycles)
    assert [schedule.factor(8 * cycle / (8 * cycles)) for cycle in range(cycles)] == pytest.approx([1.0] * cycles)
    assert schedule.factor(1) == 0


def test_parameter_groups_keep_their_ratio():
    schedule = Linear(sgd(0.4, 0.1))
    schedule.total_steps = 4
    take_steps(schedule, 1)
    assert [group["lr"] for group in schedule.optimizer.param_groups] == pytest.approx([0.3, 0.075])
    assert schedule.get_last_lr() == pytest.approx([0.3, 0.075])


def test_a_parameter_group_that_is_added_later_keeps_its_own_learning_rate():
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Linear(optimizer)
    schedule.total_steps = 4
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.3})
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.75, 0.3]


def test_a_custom_schedule_implements_only_factor():
    class Half(RunLR):
        def factor(self, progress: float) -> float:
            return 0.5 if progress >= 0.5 else 1.0

    assert run(Half, 4, 4) == [LR, LR, LR / 2, LR / 2]
    with pytest.raises(NotImplementedError):
        RunLR(sgd())


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (Cosine, {"final_ratio": 1.1}, "final_ratio must be in [0, 1], got 1.1"),
        (Cosine, {"cycles": 0}, "cycles must be at least 1, got 0"),
        (Linear, {"final_ratio": -0.1}, "final_ratio must be in [0, 1], got -0.1"),
        (Polynomial, {"final_ratio": 2}, "final_ratio must be in [0, 1], got 2"),
        (Polynomial, {"power": 0}, "power must be above 0, got 0"),
        (Exponential, {"final_ratio": 0}, "final_ratio must be in (0, 1], got 0"),
        (Step, {"step_fraction": 0}, "step_fraction must be above 0, got 0"),
        (Step, {"gamma": 0}, "gamma must be above 0, got 0"),
        (MultiStep, {"milestones": [0.5, 30]}, "milestones must be fractions of the run in [0, 1], got [0.5, 30]"),
        (MultiStep, {"milestones": [0.5], "gamma": -1}, "gamma must be above 0, got -1"),
        (OneCycle, {"pct_start": 1}, "pct_start must be in (0, 1), got 1"),
        (OneCycle, {"start_ratio": 1.1}, "start_ratio and final_ratio must be in [0, 1], got 1.1 and 0.0"),
    ],
)
def test_invalid_arguments_are_rejected(schedule, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        schedule(sgd(), **arguments)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_takes_the_rest_of_the_run_after_a_linear_warmup(schedule):
    rates, alone = run(schedule, 24, 30, warmup_steps=4), run(schedule, 20, 26)
    assert rates[:4] == pytest.approx([alone[0] * factor for factor in (0.2, 0.4, 0.6, 0.8)])
    assert rates[4:] == pytest.approx(alone)


def test_schedules_of_torch_count_steps_after_the_warmup():
    rates = run(partial(lr_scheduler.StepLR, step_size=3), 100, 9, warmup_steps=2)
    assert rates == pytest.approx([LR * factor for factor in (1 / 3, 2 / 3, 1, 1, 1, 0.1, 0.1, 0.1, 0.01)])


def test_a_warmup_without_a_schedule_ends_at_the_base_learning_rate():
    assert run(None, 10, 6, warmup_steps=3) == pytest.approx([LR * factor for factor in (0.25, 0.5, 0.75, 1, 1, 1)])


def test_a_run_of_unlimited_length_keeps_the_base_learning_rate():
    assert run(Cosine, float("inf"), 3) == pytest.approx([LR] * 3)


def test_without_schedule_and_warmup_there_is_no_scheduler():
    assert with_warmup(sgd(), None, 0, 10) == []


def test_a_negative_warmup_is_rejected():
    with pytest.raises(UserError, match="warmup_steps must be at least 0, got -1"):
        with_warmup(sgd(), Cosine, -1, 10)


@pytest.mark.parametrize("warmup_steps", [0, 5])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_and_extended_run_follows_its_new_length(schedule, warmup_steps):
    first = built(schedule, 20, warmup_steps)
    take_steps(first, 10)
    file = io.BytesIO()
    torch.save([first.optimizer.state_dict(), first.state_dict()], file)
    file.seek(0)
    optimizer_state, schedule_state = torch.load(file, weights_only=True)
    second = built(schedule, 40, warmup_steps)
    second.optimizer.load_state_dict(optimizer_state)
    second.load_state_dict(schedule_state)
    assert take_steps(second, 30)[1:] == pytest.approx(run(schedule, 40, 40, warmup_steps)[11:])
