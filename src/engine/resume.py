"""Resume: what Lightning lacks for an exact resume."""

import random
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, EarlyStopping, ModelPruning, WeightAveraging
from lightning.pytorch.plugins import DoublePrecision
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.model_helpers import is_overridden

from src.engine.masks import find_masks, restore_masks
from src.engine.param_groups import (
    Settings,
    apply_changes,
    check_resumable,
    param_groups_and_schedulers,
    snapshot_settings,
)
from src.protocols import HasEpochMeans, WarmedUp

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")


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
        if self.cut:  # save it like an epoch that goes on
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
        if not type(callback).__module__.startswith(("lightning.", "src.")):
            callback.on_train_epoch_start(trainer, trainer.lightning_module)
    call._call_lightning_module_hook(trainer, "on_train_epoch_start")


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed the generators of Python, NumPy and torch for an epoch."""
    number = random.Random(f"{seed} {epoch}").getrandbits(63)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def repeat_draws(owner: LightningDataModule | LightningModule) -> None:
    """Let the hooks that split data or create loaders draw the same random numbers each time, those of a new run.

    A ``random_split`` in ``setup`` would otherwise be another one when fit evaluates the trained net. Only draws of
    ``setup`` move the generators on, as if nobody had repeated them.
    """
    hooks = LOADERS if isinstance(owner, LightningModule) else ("setup", *LOADERS)
    base: Any = LightningModule if isinstance(owner, LightningModule) else LightningDataModule
    for name in hooks:
        if is_overridden(name, owner, base):
            setattr(owner, name, partial(call_in_state, getattr(owner, name), rng_state(), name != "setup"))


def call_in_state(hook: Any, state: tuple[Any, ...], restores: bool, *args: Any, **kwargs: Any) -> Any:
    before = rng_state()
    set_rng_state(state)
    result = hook(*args, **kwargs)
    if restores:
        set_rng_state(before)
    return result


def rng_state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def set_rng_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
