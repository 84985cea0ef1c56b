"""Resume: what Lightning lacks for an exact resume."""

import random
import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, EarlyStopping, ModelPruning, WeightAveraging
from lightning.pytorch.callbacks import StochasticWeightAveraging as LightningSWA
from lightning.pytorch.plugins import DoublePrecision
from lightning.pytorch.trainer import call

from src import UserError, require
from src.engine.extra_state import find_masks, restore_masks
from src.protocols import HasEpochMeans, WarmedUp

NEED_STATE = {"amsgrad", "centered"}  # settings for which the optimizer keeps additional state
CHANGING = {"lr", "_last_lr", "last_epoch", "_step_count"}  # state that changes in every step
OBJECTS = {"params", "_schedulers", "lr_lambdas"}  # no settings

Settings = list[dict[str, Any]]  # of each parameter group and scheduler


class Resume(Callback):
    """Resume a run exactly where it stopped, with the settings that its config has now.

    Lightning restores the stored settings of optimizers, schedules and early stopping over the configured ones
    (Lightning issues #20310, #20801). Here checkpoints also hold the settings as configured; a setting that differs
    from the current one was changed by the user and is applied. A changed base learning rate scales the current one.

    Lightning also loses the position within an epoch if a schedule reads the number of steps before training. It
    steps ReduceLROnPlateau only after it saves the epoch's checkpoint, and never in a resumed epoch (``PlateauStep``).
    With ``max_steps`` it ends a finished epoch twice. An epoch that ``max_steps`` or a callback cuts short counts as
    done: its rest would never be trained.

    Random numbers drawn in an epoch depend only on the seed and the epoch, so foreign modules and DataLoaders resume
    exactly from the end of any epoch; ``epoch`` is the first that this process trains.
    """

    def __init__(self, epoch: int = 0, seed: int = 0) -> None:
        self.epoch, self.seed = epoch, seed
        self.configured: Settings = []
        self.stored: Settings = []
        self.masks: dict[str, Any] = {}  # what callbacks had frozen and pruned in the checkpoint
        self.cut = False  # whether the epoch that has just ended was cut short

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        if isinstance(trainer.precision_plugin, DoublePrecision):
            pl_module.double()  # Lightning converts only after it has loaded the weights, which rounds them to float32
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.current_epoch != self.epoch:  # the loader draws its first order before this hook
            seed_epoch(self.seed, trainer.current_epoch)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed_epoch(self.seed, self.epoch)
        names = {id(p): name for name, p in pl_module.named_parameters()}
        # optimizers are restored after this hook
        self.counts = [len(optimizer.param_groups) for optimizer in trainer.optimizers]  # callbacks may add groups
        self.configured = [snapshot_settings(each, names) for each in param_groups_and_schedulers(trainer, self.counts)]
        if self.stored:
            warmup_steps = pl_module.warmup_steps if isinstance(pl_module, WarmedUp) else 0
            check_resumable(self.configured, self.stored, warmup_steps)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop: Any = trainer.fit_loop
        loop._combined_loader._load_state_dicts(loop._combined_loader_states_to_load)
        loop._combined_loader_states_to_load = []
        for settings in zip(
            param_groups_and_schedulers(trainer, self.counts), self.configured, self.stored, strict=False
        ):
            apply_changes(*settings)
        self.stored = []
        if self.masks:
            restore_masks(trainer.callbacks, pl_module, self.masks)  # type: ignore[attr-defined]
        if loop.restarted_mid_epoch:
            loop.on_advance_start = partial(repeat_epoch_start, trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.cut = not trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        if self.cut and isinstance(pl_module, HasEpochMeans):
            means: Any = pl_module.train_means
            self.means = means.snapshot()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["stopped"] = trainer.should_stop and trainer.fit_loop._can_stop_early  # as by EarlyStopping
        if any(isinstance(each, BaseFinetuning | ModelPruning) for each in trainer.callbacks):  # type: ignore[attr-defined]
            checkpoint["masks"] = find_masks(pl_module)
        if self.cut:  # save it like an epoch that is not over
            for count in ("current", "total"):
                checkpoint["loops"]["fit_loop"]["epoch_progress"][count]["processed"] -= 1
            if isinstance(pl_module, HasEpochMeans):
                means: Any = pl_module.train_means
                means.restore(self.means)  # the module saves them after this hook

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.masks = checkpoint.get("masks", {})
        averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if "current_model_state" in checkpoint and not averaged and trainer.state.fn == "fit":
            pl_module.load_state_dict(checkpoint["current_model_state"])  # averaging was removed from the config
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint.get("callbacks", {}).get(callback.state_key, {})
            if isinstance(callback, EarlyStopping) and state:
                state["patience"] = callback.patience

    def state_dict(self) -> dict[str, Any]:
        return {"configured": self.configured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stored = state["configured"]


def repeat_epoch_start(trainer: Trainer) -> None:
    """Start a resumed epoch with the user's ``on_train_epoch_start``, which Lightning skips, for the state it sets."""
    del trainer.fit_loop.on_advance_start  # the patch
    trainer.fit_loop.on_advance_start()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        own = not type(callback).__module__.startswith(("lightning.", "src."))
        if own or isinstance(callback, LightningSWA):  # which creates its average
            callback.on_train_epoch_start(trainer, trainer.lightning_module)
    call._call_lightning_module_hook(trainer, "on_train_epoch_start")


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed the generators of Python, NumPy and torch for an epoch."""
    number = random.Random(f"{seed} {epoch}").getrandbits(63)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def can_resume_here(trainer: Trainer) -> bool:
    """Tell whether a run can resume exactly from this point within an epoch.

    It cannot during gradient accumulation, nor while the validation or logging of this step is still to come.
    """
    loop = trainer.fit_loop
    batches = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    validates = trainer.is_last_batch or (batches + 1) % (trainer.val_check_batch or sys.maxsize) == 0
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    logs = every > 1 and trainer.global_step % every == 0
    return not validates and not logs and not loop._should_accumulate()


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
