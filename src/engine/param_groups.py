"""Settings of parameter groups and schedulers: which of them were changed before a run is resumed."""

from typing import Any

from lightning.pytorch import Trainer

from src import UserError, require

NEED_STATE = {"amsgrad", "centered"}  # settings for which the optimizer keeps additional state
CHANGING = {"lr", "_last_lr", "last_epoch", "_step_count"}  # state that changes in every step
OBJECTS = {"params", "_schedulers", "lr_lambdas"}  # no settings

Settings = list[dict[str, Any]]  # of each parameter group and scheduler


def param_groups_and_schedulers(trainer: Trainer, counts: list[int]) -> Settings:
    """Return the dictionaries that hold settings: parameter groups and schedulers, including nested schedulers.

    Only the first ``counts`` groups of each optimizer count; callbacks added the others.
    """
    pairs = zip(trainer.optimizers, counts, strict=True)
    groups: Settings = [group for optimizer, count in pairs for group in optimizer.param_groups[:count]]
    schedulers: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    for scheduler in schedulers:
        schedulers += getattr(scheduler, "_schedulers", [])  # of torch's SequentialLR and ChainedScheduler
    return [*groups, *(vars(scheduler) for scheduler in schedulers)]


def snapshot_settings(live: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """Return a copy of the plain settings in a parameter group or scheduler, and the names of its parameters."""
    named = {"names": [names.get(id(p), "") for p in live["params"]]} if "params" in live else {}
    plain = {key: live[key] for key in live if isinstance(live[key], int | float | str | list | tuple)}
    copied = {key: [*value] if isinstance(value, list) else value for key, value in plain.items()}
    return named | {key: copied[key] for key in copied if key not in OBJECTS}


def check_resumable(configured: Settings, stored: Settings, warmup_steps: int) -> None:
    """Refuse an optimizer or schedule of another kind, other parameter groups, and another length of the warm-up."""
    kinds, stored_kinds = ([{*each} - {"names"} for each in settings] for settings in (configured, stored))
    have, had = (sum("last_epoch" not in keys for keys in each) for each in (kinds, stored_kinds))
    advice = "restore the settings, or start a new run with them"
    require(have == had, f"the run has {have} parameter groups, the checkpoint {had}: {advice}")
    require(kinds == stored_kinds, f"the optimizer or schedule is of another kind than the checkpoint's: {advice}")
    for now, then in zip(configured, stored, strict=True):
        if now.get("names") != then.get("names", now.get("names")):
            (first, *_) = set(now["names"]) ^ set(then["names"]) or {now["names"][0]}
            what = f"parameter groups differ from the checkpoint's (first: {first})"
            raise UserError(f"{what}; restore model.groups or start a new run")
        is_warmup = "start_factor" in now and now["total_iters"] == warmup_steps  # not a LinearLR after the warm-up
        if is_warmup and then["total_iters"] != warmup_steps:
            steps = f"warmup_steps was {then['total_iters']}, is {warmup_steps}"
            raise UserError(f"{steps}: restore it, or start a new run")


def apply_changes(live: dict[str, Any], configured: dict[str, Any], stored: dict[str, Any]) -> None:
    """Apply settings that were changed since the checkpoint was saved to a parameter group or scheduler."""
    changed = {name: value for name, value in configured.items() if stored.get(name, value) != value}
    for name in NEED_STATE & changed.keys():
        what = f"{name} was {stored[name]}, is {changed[name]}, for which the checkpoint lacks optimizer state"
        raise UserError(f"{what}; restore it, or start a new run")
    live.update({name: changed[name] for name in changed.keys() - CHANGING})
    base = "initial_lr" if "initial_lr" in configured else "lr"
    if "params" in live and base in changed:
        ratio = live["lr"] / stored[base] if stored[base] else 1.0
        live["lr"] = ratio * configured[base]
