"""Less of Lightning's own work in each step: for a small net that is most of it."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from inspect import ismethod
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

NOTHING: AbstractContextManager[None] = nullcontext()


class Untimed(PassThroughProfiler):
    """Lightning's default, which measures nothing, without the context managers that it makes in each step."""

    def profile(self, action_name: str) -> Any:  # noqa: ARG002
        return NOTHING


has_argument_once = cache(is_param_in_hook_signature)
HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


def lighten(trainer: Any) -> None:
    """Spare each step of a training that begins what gives the same answer each time."""
    for owner in (trainer.lightning_module, *trainer.callbacks):
        skip_empty_hooks(owner)
    hooks = trainer._data_connector._datahook_selector
    hooks.get_instance = cache(hooks.get_instance)  # whether module or data module moves a batch
    training_epoch_loop.is_param_in_hook_signature = has_argument
    look_for_gpus_once()


def skip_empty_hooks(owner: Callback | LightningModule) -> None:
    """Let Lightning pass over the hooks of a training step that do nothing; it calls whatever is callable."""
    kind = Callback if isinstance(owner, Callback) else LightningModule
    for name in HOOKS:
        if name not in vars(owner) and getattr(type(owner), name) is getattr(kind, name):
            setattr(owner, name, None)


def has_argument(hook_fx: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Answer what Lightning asks in each step, whether ``training_step`` takes ``batch_idx``; of a method ask once."""
    if ismethod(hook_fx):  # its function alone is remembered, so that the module can be freed
        return has_argument_once(hook_fx.__func__, *args, **kwargs)
    return is_param_in_hook_signature(hook_fx, *args, **kwargs)


def look_for_gpus_once() -> None:
    """Where there is no GPU, let Adam not look for one in each step, which takes 0.1 ms as Lightning has set it."""
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
