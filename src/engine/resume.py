"""Resume: what a run that goes on needs and Lightning does not do."""

import os
import random
import sys
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging

from src import UserError

KEEPING = {"amsgrad", "centered"}  # settings by which an optimizer keeps more of its past
MOVING = {"lr", "_last_lr", "last_epoch", "_step_count"}  # change in every step, so are never settings


class Resume(Callback):
    """Let a continued run start where it stopped, under the settings that its config has now.

    Lightning restores the stored settings of optimizers, schedules and early stopping over the configured ones (its
    issues #20310, #20801). Here the settings as they were configured lie in the checkpoint; one that differs from the
    present one was changed by the user and is applied. A changed base learning rate scales the present one.

    Lightning also forgets the position within an epoch if the number of steps was asked for before, as schedules do,
    and moves ReduceLROnPlateau only after an epoch is saved, and not at all in an epoch that it goes on with. Under
    ``max_steps`` it ends once more an epoch that had ended.

    What is drawn at random in an epoch depends on the seed and on the epoch alone, so that a module and a DataLoader
    of one's own, which need not know of this, go on to the bit from the end of any epoch.

    Args:
        epoch: the first that this process trains in.
    """

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self.configured: list[dict[str, Any]] = []
        self.stored: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.current_epoch != self.epoch:  # the loader's first order was drawn before this
            seed(trainer.current_epoch)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed(self.epoch)
        names = {id(p): name for name, p in pl_module.named_parameters()}
        self.configured = [plain(place, names) for place in places(trainer)]  # optimizers are restored after this hook
        now, then = ([sorted({*place} - {"names"}) for place in places] for places in (self.configured, self.stored))
        if self.stored and now != then:
            have, had = (sum("last_epoch" not in keys for keys in places) for places in (now, then))
            what = f"there are {have} parameter groups, in the checkpoint {had}" if have != had else ""
            what = what or "optimizer or schedule are of another kind than the checkpoint's"
            raise UserError(f"{what}: restore the settings, or start a new run with them")
        for place, before in zip(self.configured, self.stored, strict=False):
            if place.get("names") != before.get("names", place.get("names")):
                (odd, *_) = set(place["names"]) ^ set(before["names"]) or {place["names"][0]}
                raise UserError(
                    f"groups divide the parameters otherwise than the checkpoint's ({odd}): start a new run"
                )
            steps = getattr(pl_module, "warmup_steps", 0)
            rise = "start_factor" in place and place["total_iters"] == steps  # the warm-up, not a LinearLR after it
            if rise and before["total_iters"] != steps:
                raise UserError(f"warmup_steps was {before['total_iters']}, is {steps}: restore it, or start a new run")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        loop = trainer.fit_loop
        if loop._combined_loader is not None and loop._combined_loader_states_to_load:
            loop._combined_loader._load_state_dicts(loop._combined_loader_states_to_load)
            loop._combined_loader_states_to_load = []
        now = places(trainer)
        for place, configured, stored in zip(now, self.configured, self.stored, strict=False):
            for name, value in configured.items():
                if name in KEEPING and stored.get(name, value) != value:
                    raise UserError(
                        f"{name} was {stored[name]}, is {value}: the checkpoint lacks what it needs; "
                        "restore it, or start a new run"
                    )
                if name not in (*MOVING, "names") and stored.get(name, value) != value:
                    place[name] = value
            base = "initial_lr" if "initial_lr" in configured else "lr"
            if "params" in place and stored.get(base, configured[base]) != configured[base]:
                share = place["lr"] / stored[base] if stored[base] else 1.0
                place["lr"] = share * configured[base]
        self.stored = []
        self.every = [config.frequency for config in trainer.lr_scheduler_configs]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move schedules on plateaus now, before anything is saved, and not once more by Lightning after it."""
        for config, every in zip(trainer.lr_scheduler_configs, self.every, strict=False):
            if config.reduce_on_plateau and config.interval == "epoch":
                value = trainer.callback_metrics.get(str(config.monitor))
                config.frequency = every if value is None else sys.maxsize
                if value is not None and (trainer.current_epoch + 1) % every == 0:
                    pl_module.lr_scheduler_step(config.scheduler, value)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        checkpoint["stopped"] = trainer.should_stop and trainer.fit_loop._can_stop_early  # as by EarlyStopping

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if "current_model_state" in checkpoint and not averaged and trainer.state.fn == "fit":
            pl_module.load_state_dict(checkpoint["current_model_state"])  # the weights, not an average no longer wanted
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint.get("callbacks", {}).get(callback.state_key, {})
            if isinstance(callback, EarlyStopping) and state:
                state["patience"] = callback.patience

    def state_dict(self) -> dict[str, Any]:
        return {"configured": self.configured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stored = state["configured"]


def seed(epoch: int) -> None:
    """Seed Python's, NumPy's and torch's generators for an epoch."""
    number = random.Random(f"{os.environ.get('PL_GLOBAL_SEED', 0)} {epoch}").getrandbits(63)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def places(trainer: Trainer) -> list[dict[str, Any]]:
    """Return the dictionaries that hold settings: parameter groups and schedules, nested ones too."""
    groups: list[dict[str, Any]] = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    schedules: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    for schedule in schedules:
        schedules += getattr(schedule, "_schedulers", [])
    return [*groups, *(vars(schedule) for schedule in schedules)]


def plain(place: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """Return a copy of the values that a checkpoint can hold and a user can set, and the names of the parameters."""
    kinds = (bool, int, float, str, list, tuple)
    named = {"names": [names.get(id(p), "") for p in place["params"]]} if "params" in place else {}
    return named | {
        key: list(value) if isinstance(value, list) else value
        for key, value in place.items()
        if isinstance(value, kinds) and key not in ("params", "_schedulers", "lr_lambdas")
    }
