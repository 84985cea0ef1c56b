"""Patch Lightning for less overhead per step and for modules of others, jsonargparse to ask before it imports."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from inspect import ismethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import _actions, _common, _paths, _typehints, _util
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")
NOTHING: AbstractContextManager[None] = nullcontext()
cached_has_param = cache(is_param_in_hook_signature)
import_object: Callable[..., Any] = _util.import_object
for name, kind in Trainer.__init__.__annotations__.items():
    if kind == int | float | None:  # typing may have this union with float first, and a limit of 1.0 is all batches
        Trainer.__init__.__annotations__[name] = int | float | None


class NoOpProfiler(PassThroughProfiler):
    """Lightning's default profiler, which measures nothing, without the context managers it creates in each step."""

    def profile(self, action_name: str) -> Any:  # noqa: ARG002
        return NOTHING


class LowOverhead(Callback):
    """Cache or skip per-step work of Lightning whose result never changes, until training ends."""

    def __init__(self) -> None:
        self.skipped: list[tuple[Any, str]] = []

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        self.skipped = [(owner, name) for owner in (pl_module, *trainer.callbacks) for name in empty_hooks(owner)]
        for owner, name in self.skipped:
            setattr(owner, name, None)  # Lightning calls only callables
        hooks = trainer._data_connector._datahook_selector
        hooks.get_instance = cache(hooks.get_instance)  # does the module or the data module move a batch?
        training_epoch_loop.is_param_in_hook_signature = has_param
        LightningModule.__setattr__ = quick_setattr  # type: ignore[method-assign,assignment]
        if not torch.cuda.is_available():
            # Adam looks for GPUs in each step, which takes 0.1 ms with Lightning's setting
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # Lightning sets it to 1

    def teardown(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        for owner, name in self.skipped:
            vars(owner).pop(name, None)
        self.skipped = []
        training_epoch_loop.is_param_in_hook_signature = is_param_in_hook_signature
        if vars(LightningModule).get("__setattr__") is quick_setattr:
            del LightningModule.__setattr__

    def on_exception(self, trainer: Any, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        self.teardown(trainer, pl_module, "fit")  # Lightning skips this hook when training fails


def empty_hooks(owner: Callback | LightningModule) -> list[str]:
    """Return the hooks of a training step that do nothing."""
    base = Callback if isinstance(owner, Callback) else LightningModule
    return [name for name in HOOKS if name not in vars(owner) and getattr(type(owner), name) is getattr(base, name)]


def has_param(hook_fx: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Cache Lightning's per-step check of whether ``training_step`` takes ``batch_idx``."""
    if ismethod(hook_fx):  # caching the function, not the method, lets the module be freed
        return cached_has_param(hook_fx.__func__, *args, **kwargs)
    return is_param_in_hook_signature(hook_fx, *args, **kwargs)


def quick_setattr(module: LightningModule, name: str, value: Any) -> None:
    """Set an attribute; Lightning sets ``_current_fx_name`` around every hook, and torch's own way is slow."""
    if name == "_current_fx_name":
        object.__setattr__(module, name, value)
    else:
        super(LightningModule, module).__setattr__(name, value)


@contextmanager
def imports_checked(check: Callable[[str], None]) -> Iterator[None]:
    """Call ``check``, which may raise, with each dotted path that jsonargparse is about to import for a value.

    It is called wherever the path stands: in an alias, in a string of YAML, or in a file that a value names.
    """

    def import_checked(name: str, check_path: bool = True) -> Any:
        if check_path and isinstance(name, str):  # else the path is a type or default in the code
            check(name)
        return import_object(name, check_path=False)

    def read_utf8(path: Any) -> str:  # in any locale
        return Path(path.absolute).read_text(encoding="utf-8")

    patches: list[tuple[Any, str, Any]] = [
        (module, "import_object", import_checked) for module in (_actions, _typehints)
    ]
    patches += [(_typehints, "check_import_path", check), (_paths.Path, "read_text", read_utf8)]
    originals = [getattr(owner, name) for owner, name, _ in patches]
    for owner, name, new in patches:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for (owner, name, _), original in zip(patches, originals, strict=True):
            setattr(owner, name, original)


def required_optional() -> AbstractContextManager[None]:
    """Let parsers accept settings in which required ones are missing."""
    return _common.parser_context(lenient_check=True)


class PlateauStep(Checkpoint):
    """Step ReduceLROnPlateau before anything is saved, and keep Lightning from stepping it again later.

    It is a Checkpoint because these come after the module's own ``on_train_epoch_end``, which may log the metric. An
    epoch in which the metric was not logged, for example one without validation, does not count.
    """

    following: Any = None  # the next Checkpoint; this one is Lightning's ``trainer.checkpoint_callback``

    @property
    def best_model_path(self) -> str:
        own = hasattr(self.following, "file")  # as a checkpoint of this project has
        return str(self.following.file() if own else getattr(self.following, "best_model_path", ""))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        plateaus = [x for x in trainer.lr_scheduler_configs if x.reduce_on_plateau and x.interval == "epoch"]
        self.steps: list[tuple[Any, int, Any]] = [(config, config.frequency, None) for config in plateaus]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        old = trainer.callback_metrics
        self.steps = [(config, frequency, old.get(str(config.monitor))) for config, frequency, _ in self.steps]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fit_loop.epoch_loop._num_ready_batches_reached():  # cut short: a resumed run continues it
            return
        for config, frequency, old in self.steps:
            value = trainer.callback_metrics.get(str(config.monitor))
            later = value is None and not trainer.fit_loop.epoch_loop._should_check_val_epoch()
            config.frequency = frequency if value is None and not later else sys.maxsize
            if value is not None and value is not old and (trainer.current_epoch + 1) % frequency == 0:
                pl_module.lr_scheduler_step(config.scheduler, value)


def repeat_draws(owner: LightningDataModule | LightningModule) -> None:
    """Let the hooks that split data or create loaders draw the same random numbers each time, those of a new run.

    A ``random_split`` in ``setup`` would otherwise be another one when fit evaluates the trained net. Only draws of
    ``setup`` move the generators on, as if nobody had repeated them.
    """
    base: Any = LightningModule if isinstance(owner, LightningModule) else LightningDataModule
    for name in ("prepare_data", "setup", *LOADERS):
        if is_overridden(name, owner, base):
            setattr(owner, name, partial(call_in_state, getattr(owner, name), rng_state(), name != "setup"))


def call_in_state(hook: Any, state: tuple[Any, ...], restores: bool, *args: Any, **kwargs: Any) -> Any:
    before = rng_state()
    set_rng_state(state)
    try:
        result = hook(*args, **kwargs)
    except (AttributeError, TypeError):
        if hook.__name__ != "val_dataloader" or hook.__self__.trainer.state.fn != "validate":
            raise
        hook.__self__.setup("fit")  # where many modules load also the validation data
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
