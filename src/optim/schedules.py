"""Learning-rate schedules defined over training progress, and warm-up."""

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, SequentialLR

from src import require

TOLERANCE = 1e-9  # in floating point, step 3 of 10 falls short of a boundary at 3 * 0.1


class RunLR(LRScheduler):
    """Base of all schedules defined over training progress in [0, 1]. Subclasses implement ``factor``.

    ``with_warmup`` sets ``total_steps``, so that no config counts steps.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.total_steps = 1
        super().__init__(optimizer)

    def factor(self, progress: float) -> float:
        """Return the learning rate as a fraction of the base learning rate."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        factor = self.factor(min(1.0, self.last_epoch / self.total_steps))
        added = self.optimizer.param_groups[len(self.base_lrs) :]  # by a callback, which sets their learning rates
        return [base * factor for base in self.base_lrs] + [group["lr"] for group in added]

    def state_dict(self) -> dict[str, Any]:
        """Leave out ``total_steps``, because a resumed run may be longer."""
        return {key: value for key, value in super().state_dict().items() if key != "total_steps"}


class Cosine(RunLR):
    """Cosine decay, with warm restarts if there are several cycles; arXiv:1608.03983, equation 5.

    Args:
        final_ratio: final learning rate as a fraction of the base learning rate, in [0, 1].
        cycles: number of cycles of equal length, at least 1; each starts at the base learning rate.
    """

    def __init__(self, optimizer: Optimizer, final_ratio: float = 0.0, cycles: int = 1) -> None:
        require(0 <= final_ratio <= 1, f"final_ratio must be in [0, 1], got {final_ratio}")
        require(cycles >= 1, f"cycles must be at least 1, got {cycles}")
        self.final_ratio, self.cycles = final_ratio, cycles
        super().__init__(optimizer)

    def factor(self, progress: float) -> float:
        finished = min(int(progress * self.cycles + TOLERANCE), self.cycles - 1)
        return cosine(1, self.final_ratio, max(0.0, progress * self.cycles - finished))


class Polynomial(RunLR):
    """Polynomial decay, proportional to ``(1 - progress) ** power``; arXiv:1606.00915.

    Args:
        power: exponent, above 0; 1 decays linearly, a larger one decays faster at first.
        final_ratio: final learning rate as a fraction of the base learning rate, in [0, 1].
    """

    def __init__(self, optimizer: Optimizer, power: float = 2.0, final_ratio: float = 0.0) -> None:
        require(power > 0, f"power must be above 0, got {power}")
        require(0 <= final_ratio <= 1, f"final_ratio must be in [0, 1], got {final_ratio}")
        self.power, self.final_ratio = power, final_ratio
        super().__init__(optimizer)

    def factor(self, progress: float) -> float:
        return self.final_ratio + (1 - self.final_ratio) * (1 - progress) ** self.power


class Linear(Polynomial):
    """Linear decay.

    Args:
        final_ratio: final learning rate as a fraction of the base learning rate, in [0, 1].
    """

    def __init__(self, optimizer: Optimizer, final_ratio: float = 0.0) -> None:
        super().__init__(optimizer, 1.0, final_ratio)


class Exponential(RunLR):
    """Exponential decay: every step multiplies the learning rate by the same factor.

    Args:
        final_ratio: final learning rate as a fraction of the base learning rate, in (0, 1].
    """

    def __init__(self, optimizer: Optimizer, final_ratio: float = 0.01) -> None:
        require(0 < final_ratio <= 1, f"final_ratio must be in (0, 1], got {final_ratio}")
        self.final_ratio = final_ratio
        super().__init__(optimizer)

    def factor(self, progress: float) -> float:
        return self.final_ratio**progress


class Step(RunLR):
    """Step decay: the learning rate drops at regular intervals.

    Args:
        step_fraction: fraction of the run between two drops, above 0.
        gamma: factor of each drop, above 0.
    """

    def __init__(self, optimizer: Optimizer, step_fraction: float = 0.3, gamma: float = 0.1) -> None:
        require(step_fraction > 0, f"step_fraction must be above 0, got {step_fraction}")
        require(gamma > 0, f"gamma must be above 0, got {gamma}")
        self.step_fraction, self.gamma = step_fraction, gamma
        super().__init__(optimizer)

    def factor(self, progress: float) -> float:
        return self.gamma ** int(progress / self.step_fraction + TOLERANCE)


class MultiStep(RunLR):
    """Step decay at chosen milestones.

    Args:
        milestones: training progress at each drop, in [0, 1].
        gamma: factor of each drop, above 0.
    """

    def __init__(self, optimizer: Optimizer, milestones: list[float], gamma: float = 0.1) -> None:
        in_run = all(0 <= milestone <= 1 for milestone in milestones)
        require(in_run, f"milestones must be fractions of the run in [0, 1], got {milestones}")
        require(gamma > 0, f"gamma must be above 0, got {gamma}")
        self.milestones, self.gamma = milestones, gamma
        super().__init__(optimizer)

    def factor(self, progress: float) -> float:
        return self.gamma ** sum(progress + TOLERANCE >= milestone for milestone in self.milestones)


class OneCycle(RunLR):
    """Cosine warm-up to the base learning rate, then cosine decay; arXiv:1708.07120. Needs no ``warmup_steps``.

    Args:
        pct_start: fraction of the run before the peak, in (0, 1).
        start_ratio: initial learning rate as a fraction of the base learning rate, in [0, 1].
        final_ratio: final learning rate as a fraction of the base learning rate, in [0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, pct_start: float = 0.3, start_ratio: float = 0.04, final_ratio: float = 0.0
    ) -> None:
        require(0 < pct_start < 1, f"pct_start must be in (0, 1), got {pct_start}")
        valid = 0 <= start_ratio <= 1 and 0 <= final_ratio <= 1
        require(valid, f"start_ratio and final_ratio must be in [0, 1], got {start_ratio} and {final_ratio}")
        self.pct_start, self.start_ratio, self.final_ratio = pct_start, start_ratio, final_ratio
        super().__init__(optimizer)

    def factor(self, progress: float) -> float:
        if progress < self.pct_start:
            return cosine(self.start_ratio, 1, progress / self.pct_start)
        return cosine(1, self.final_ratio, (progress - self.pct_start) / (1 - self.pct_start))


def cosine(start: float, end: float, progress: float) -> float:
    """Interpolate from ``start`` to ``end`` along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def with_warmup(
    optimizer: Optimizer, schedule: Callable[[Optimizer], LRScheduler] | None, warmup_steps: int, total_steps: float
) -> list[dict[str, Any]]:
    """Return Lightning's configs of a linear warm-up to the schedule's start, then the schedule until ``total_steps``.

    ReduceLROnPlateau watches val/loss after each epoch, alongside the warm-up; their factors multiply.
    """
    require(warmup_steps >= 0, f"warmup_steps must be at least 0, got {warmup_steps}")
    main, start = schedule(optimizer) if schedule else None, 1.0
    if isinstance(main, RunLR):
        start = max(main.factor(0), 1e-9)  # LinearLR requires a positive factor
        main.total_steps = max(1, int(min(total_steps, 2**53)) - warmup_steps)
    if isinstance(main, OneCycleLR):
        needed = f"at least {total_steps - warmup_steps:g}, the steps after the warm-up"
        require(main.total_steps >= total_steps - warmup_steps, f"total_steps must be {needed}, got {main.total_steps}")
    warmup = LinearLR(optimizer, start / (warmup_steps + 1), start, warmup_steps) if warmup_steps else None
    configs: list[dict[str, Any]] = [{"scheduler": each, "interval": "step"} for each in (warmup, main) if each]
    if isinstance(main, ReduceLROnPlateau):
        configs[-1] |= {"interval": "epoch", "monitor": "val/loss"}
    elif warmup and main:
        configs = [{"scheduler": SequentialLR(optimizer, [warmup, main], [warmup_steps]), "interval": "step"}]
    return configs
