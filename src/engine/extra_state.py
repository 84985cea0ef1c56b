"""State that Lightning's checkpoints lack: what callbacks froze and pruned, and values outside the state dict."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, ModelPruning
from torch import nn
from torch.nn.utils import prune
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from src.runs.checkpoint import is_plain

LIBRARY = {*vars(LightningModule())}  # names of attributes of Lightning and torch


def find_masks(module: LightningModule) -> dict[str, Any]:
    """Return what must be restored in a resumed run, where the callbacks start with a module as it was built."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    pruned = [key.removesuffix("_mask") for key in tensors if key.endswith("_mask")]
    return {
        "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
        "untracked": [name for name, each in module.named_modules() if not getattr(each, "track_running_stats", True)],
        "pruned": {
            key: (tensors[f"{key}_mask"], tensors[f"{key}_orig"].detach()) for key in pruned if f"{key}_orig" in tensors
        },
    }


def restore_masks(callbacks: Sequence[Callback], module: LightningModule, masks: dict[str, Any]) -> None:
    """Restore the result of ``find_masks``: a finetuning callback has frozen again what it had unfrozen."""
    if any(isinstance(each, BaseFinetuning) for each in callbacks):
        for name, p in module.named_parameters():
            p.requires_grad = name not in masks["frozen"]
        for name, each in module.named_modules():
            if hasattr(each, "track_running_stats"):
                each.track_running_stats = name not in masks["untracked"]
    for callback in [each for each in callbacks if isinstance(each, ModelPruning)]:
        for key, (mask, values) in masks["pruned"].items():
            path, _, name = key.rpartition(".")
            layer = module.get_submodule(path)
            prune.custom_from_mask(layer, name, mask.to(module.device))
            weight = getattr(layer, f"{name}_orig")
            weight.data.copy_(values)
            initial = (callback._original_layers or {}).get(id(layer))
            if initial and module.device.type == "cpu":  # where Lightning's reset lets both share their memory
                getattr(initial["data"], name).data = weight.data


class ModuleValues(Callback):
    """Store plain attributes, states of metrics and buffers that training has changed, and restore them on a resume.

    Such as the best accuracy so far, which many modules keep in a MaxMetric: no state dict holds it. Other objects,
    such as a replay buffer, have to be saved by the module's own ``on_save_checkpoint``.
    """

    def __init__(self) -> None:
        self.initial: dict[str, Any] | None = None  # until training starts; LearningRateFinder saves before that
        self.changed: dict[str, Any] = {}
        self.schedules: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.initial = copy.deepcopy(values_outside(pl_module))
        for path, value in self.changed.items():
            name, _, key = path.rpartition(".")
            value = value.to(pl_module.device) if isinstance(value, torch.Tensor) else copy.deepcopy(value)
            owner = pl_module.get_submodule(name)
            if key not in dict(owner.named_parameters(recurse=False)):  # as a weight that will be pruned again
                setattr(owner, key, value)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, schedule in own_schedules(trainer, pl_module).items():
            if name in self.schedules:
                schedule.load_state_dict(self.schedules[name])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.initial is not None:
            values, initial = values_outside(pl_module), self.initial
            changed = {key: value for key, value in values.items() if not same(value, initial.get(key))}
            checkpoint["module_values"] = changed
            states = {name: each.state_dict() for name, each in own_schedules(trainer, pl_module).items()}
            checkpoint["module_schedules"] = {name: each for name, each in states.items() if is_plain(each)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        self.changed = checkpoint.get("module_values", {})
        self.schedules = checkpoint.get("module_schedules", {})


def own_schedules(trainer: Trainer, module: LightningModule) -> dict[str, LRScheduler]:
    """Return the learning rate schedules that a module steps itself, without telling Lightning."""
    known = [config.scheduler for config in trainer.lr_scheduler_configs]
    return {name: x for name, x in vars(module).items() if isinstance(x, LRScheduler) and x not in known}


def values_outside(module: nn.Module) -> dict[str, Any]:
    """Return the plain attributes, states of metrics and buffers of all submodules outside the state dict, by path."""
    found: dict[str, Any] = {}
    known = module.state_dict()
    for name, each in module.named_modules():
        values = {key: value for key, value in vars(each).items() if key not in LIBRARY and is_plain(value)}
        values |= dict(each.named_buffers(recurse=False))
        if isinstance(each, Metric):
            values = {**each.metric_state, "_update_count": each.update_count}
        found |= {f"{name}.{key}".lstrip("."): value for key, value in values.items()}
    return {key: value for key, value in found.items() if key not in known}


def same(a: Any, b: Any) -> bool:
    """Tell whether two plain values are equal."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)
