"""Learning-rate schedules that know how long the run is."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

CLOSE = 1e-9  # a boundary counts as reached: 3 / 10 is not 0.1 * 3


class RunLR(LRScheduler):
    """A learning rate that depends on the share of the run that is over. Subclasses implement ``factor``.

    The task sets ``total_steps`` from the length of the run, so that no YAML has to count steps.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.total_steps = 1
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        """Return the learning rate as a share of the base when the share ``done`` of the run is over, in [0, 1]."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        factor = self.factor(min(1.0, self.last_epoch / self.total_steps))
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != "total_steps"}


class Cosine(RunLR):
    """From the base learning rate to a final one along half a cosine, once or more; arXiv:1608.03983, equation 5.

    Args:
        optimizer: whose learning rate is set.
        final: last learning rate as a share of the base, in [0, 1].
        cycles: number of times, all of one length, at least 1; each starts at the base.
    """

    def __init__(self, optimizer: Optimizer, final: float = 0.0, cycles: int = 1) -> None:
        if not 0 <= final <= 1:
            raise ValueError(f"final must be in [0, 1], got {final}")
        if cycles < 1:
            raise ValueError(f"cycles must be at least 1, got {cycles}")
        self.final, self.cycles = final, cycles
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        over = min(int(done * self.cycles + CLOSE), self.cycles - 1)
        return cosine(1, self.final, max(0.0, done * self.cycles - over))


class Polynomial(RunLR):
    """From the base learning rate to a final one as a power of the share of the run that is left; arXiv:1606.00915.

    Args:
        optimizer: whose learning rate is set.
        power: 1 makes a straight line, more falls faster at first; above 0.
        final: last learning rate as a share of the base, in [0, 1].
    """

    def __init__(self, optimizer: Optimizer, power: float = 2.0, final: float = 0.0) -> None:
        if power <= 0:
            raise ValueError(f"power must be above 0, got {power}")
        if not 0 <= final <= 1:
            raise ValueError(f"final must be in [0, 1], got {final}")
        self.power, self.final = power, final
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        return self.final + (1 - self.final) * (1 - done) ** self.power


class Linear(Polynomial):
    """From the base learning rate to a final one along a straight line.

    Args:
        optimizer: whose learning rate is set.
        final: last learning rate as a share of the base, in [0, 1].
    """

    def __init__(self, optimizer: Optimizer, final: float = 0.0) -> None:
        super().__init__(optimizer, 1.0, final)


class Exponential(RunLR):
    """From the base learning rate to a final one by the same factor in each step.

    Args:
        optimizer: whose learning rate is set.
        final: last learning rate as a share of the base, in (0, 1].
    """

    def __init__(self, optimizer: Optimizer, final: float = 0.01) -> None:
        if not 0 < final <= 1:
            raise ValueError(f"final must be in (0, 1], got {final}")
        self.final = final
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        return self.final**done


class Step(RunLR):
    """The learning rate drops at regular intervals.

    Args:
        optimizer: whose learning rate is set.
        every: share of the run from one drop to the next, above 0.
        gamma: what the learning rate is multiplied by, above 0.
    """

    def __init__(self, optimizer: Optimizer, every: float = 0.3, gamma: float = 0.1) -> None:
        if every <= 0:
            raise ValueError(f"every must be above 0, got {every}")
        if gamma <= 0:
            raise ValueError(f"gamma must be above 0, got {gamma}")
        self.every, self.gamma = every, gamma
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        return self.gamma ** int(done / self.every + CLOSE)


class MultiStep(RunLR):
    """The learning rate drops at given times.

    Args:
        optimizer: whose learning rate is set.
        milestones: shares of the run that are over at each drop, in [0, 1].
        gamma: what the learning rate is multiplied by, above 0.
    """

    def __init__(self, optimizer: Optimizer, milestones: list[float], gamma: float = 0.1) -> None:
        if not all(0 <= share <= 1 for share in milestones):
            raise ValueError(f"milestones must be shares of the run in [0, 1], got {milestones}")
        if gamma <= 0:
            raise ValueError(f"gamma must be above 0, got {gamma}")
        self.milestones, self.gamma = milestones, gamma
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        return self.gamma ** sum(done + CLOSE >= share for share in self.milestones)


class OneCycle(RunLR):
    """Up to the base learning rate and down again, each along half a cosine; arXiv:1708.07120.

    Needs no warm-up beside it.

    Args:
        optimizer: whose learning rate is set.
        rise: share of the run that goes up, in (0, 1).
        start: first learning rate as a share of the base, in [0, 1].
        final: last learning rate as a share of the base, in [0, 1].
    """

    def __init__(self, optimizer: Optimizer, rise: float = 0.3, start: float = 0.04, final: float = 0.0) -> None:
        if not 0 < rise < 1:
            raise ValueError(f"rise must be in (0, 1), got {rise}")
        if not (0 <= start <= 1 and 0 <= final <= 1):
            raise ValueError(f"start and final must be in [0, 1], got {start} and {final}")
        self.rise, self.start, self.final = rise, start, final
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        if done < self.rise:
            return cosine(self.start, 1, done / self.rise)
        return cosine(1, self.final, (done - self.rise) / (1 - self.rise))


def cosine(first: float, last: float, share: float) -> float:
    """Return how far half a cosine has come from the first value to the last."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))
