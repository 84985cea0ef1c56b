"""What ``configure_optimizers`` returns: an optimizer over groups of parameters, and its schedule."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from src import UserError
from src.optim.groups import check_settings, param_groups
from src.optim.schedules import RunLR


def optimizer_and_schedule(
    net: nn.Module,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    schedule: Callable[[Optimizer], LRScheduler] | None,
    warmup_steps: int,
    total_steps: float,
    groups: list[dict[str, Any]] | None = None,
    layer_decay: float = 1.0,
) -> tuple[list[Optimizer], list[dict[str, Any]]]:
    """Return optimizer and schedules as Lightning takes them; ReduceLROnPlateau follows val/loss after each epoch.

    Args:
        net: see ``param_groups``.
        optimizer: called with the parameter groups.
        schedule: called with the optimizer.
        warmup_steps: see ``with_warmup``.
        total_steps: length of the run.
        groups: the ``rules`` of ``param_groups``.
        layer_decay: see ``param_groups``.
    """
    made = optimizer(param_groups(net, groups, layer_decay))
    check_settings(made, groups)
    for group in made.param_groups:
        if "lr_scale" in group:
            group["lr"] = group["lr"] * group.pop("lr_scale")  # not in place: groups may share a tensor
    return [made], [
        {
            "scheduler": each,
            "interval": "epoch" if isinstance(each, ReduceLROnPlateau) else "step",
            "monitor": "val/loss",
        }
        for each in with_warmup(made, schedule, warmup_steps, total_steps)
    ]


def with_warmup(
    optimizer: Optimizer, schedule: Callable[[Optimizer], LRScheduler] | None, warmup_steps: int, total_steps: float
) -> list[LRScheduler]:
    """Return the schedules for a run of ``total_steps``, with a linear rise over the first ``warmup_steps`` to where
    the schedule begins.

    The rise comes before the schedule; only ReduceLROnPlateau, which counts epochs, acts beside it: both multiply.
    """
    if warmup_steps < 0:
        raise UserError(f"warmup_steps must be at least 0, got {warmup_steps}")
    main = schedule(optimizer) if schedule else None
    first = 1.0  # where the schedule begins, as a share of the base rate
    if isinstance(main, RunLR):
        first = max(main.factor(0), 1e-9)
        main.total_steps = max(1, int(min(total_steps, 2**53)) - warmup_steps)
    if warmup_steps == 0:
        return [main] if main else []
    rise = LinearLR(optimizer, first / (warmup_steps + 1), first, warmup_steps)
    if main is None or isinstance(main, ReduceLROnPlateau):
        return [rise, main] if main else [rise]
    return [SequentialLR(optimizer, [rise, main], milestones=[warmup_steps])]
