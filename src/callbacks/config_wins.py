"""ConfigWins: what the config says now goes before what a checkpoint stored."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
MOVING = {"lr", "_last_lr", "last_epoch", "_step_count"}  # change in every step, so are never settings


class ConfigWins(Callback):
    """After a continued run has restored its optimizers and schedules, apply the settings that were changed since.

    Lightning restores the stored ones over the configured (its issues #20310, #20801). Settings as they were configured
    lie in the checkpoint; those that differ from the present ones were changed by the user. A changed base learning
    rate scales the present one.
    """

    def __init__(self) -> None:
        self.configured: list[dict[str, Any]] = []
        self.stored: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.configured = [plain(place) for place in places(trainer)]  # the checkpoint is restored after this hook

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        now = places(trainer)
        for place, configured, stored in zip(now, self.configured, self.stored, strict=False):
            for name, value in configured.items():
                if name not in MOVING and stored.get(name, value) != value:
                    place[name] = value
            base = "initial_lr" if "initial_lr" in configured else "lr"
            if "params" in place and stored.get(base, configured[base]) != configured[base]:
                place["lr"] *= configured[base] / stored[base]
        self.stored = []

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        for callback in trainer.callbacks:
            state = checkpoint.get("callbacks", {}).get(callback.state_key, {})
            if isinstance(callback, EarlyStopping) and state:
                state["patience"] = callback.patience
            if isinstance(callback, ModelCheckpoint) and state:
                self.follow(state, callback, Path(str(trainer.ckpt_path)).resolve().parent)

    def follow(self, state: dict[str, Any], callback: ModelCheckpoint, folder: Path) -> None:
        """Let a run whose folder was moved keep its best score; Lightning would forget it and overwrite best.ckpt."""
        if callback.dirpath is not None and folder == Path(callback.dirpath):
            moved = {key: str(folder / Path(state[key]).name) for key in PATHS if state.get(key)}
            best = {str(folder / Path(file).name): score for file, score in state["best_k_models"].items()}
            state.update(moved, best_k_models=best, dirpath=callback.dirpath)

    def state_dict(self) -> dict[str, Any]:
        return {"configured": self.configured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stored = state["configured"]


def places(trainer: Trainer) -> list[dict[str, Any]]:
    """Return the dictionaries that hold settings: parameter groups and schedules, nested ones too."""
    groups: list[dict[str, Any]] = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    schedules: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    for schedule in schedules:
        schedules += getattr(schedule, "_schedulers", [])
    return [*groups, *(vars(schedule) for schedule in schedules)]


def plain(place: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the values that a checkpoint can hold and a user can set."""
    kinds = (bool, int, float, str, list, tuple)
    return {
        key: list(value) if isinstance(value, list) else value
        for key, value in place.items()
        if isinstance(value, kinds) and key not in ("params", "_schedulers", "lr_lambdas")
    }
