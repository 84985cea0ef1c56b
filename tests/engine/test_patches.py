"""Per-step work of Lightning whose result never changes is skipped or cached, until training ends."""

import gc
import weakref
from functools import wraps
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from src.cli import main
from src.engine import patches
from src.engine.patches import HOOKS, NoOpProfiler, cached_has_param, empty_hooks, has_param
from src.tasks import Classifier
from tests.conftest import FIT

SHORT = [*FIT, "--trainer.max_epochs=1", "--trainer.limit_train_batches=3"]
FOREIGN = ["fit", "--model=tests.spoilers.OwnModule", "--data=tests.spoilers.OwnData", "--trainer.max_epochs=1"]


class Counting(Callback):
    """Count the training batches."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *args: Any) -> None:  # noqa: ARG002
        self.batches += 1


def callback(x: Any, kind: type) -> Any:
    return next(each for each in x.trainer.callbacks if type(each).__name__ == kind.__name__)


def test_only_hooks_that_do_nothing_are_skipped() -> None:
    counting = Counting()
    counting.on_before_backward = print
    assert {*empty_hooks(counting)} == {*HOOKS} - {"on_train_batch_end", "on_before_backward"}


def test_hooks_of_modules_and_callbacks_are_called_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in HOOKS:
        monkeypatch.setattr("src.tasks.Task." + name, lambda *_, name=name: called.append(name), raising=False)
    x = main([*SHORT, f"--trainer.callbacks={__name__}.Counting"])
    assert sorted(called) == sorted(3 * HOOKS)
    assert callback(x, Counting).batches == 3


def test_lightning_has_all_skipped_hooks() -> None:
    assert all(callable(getattr(kind, name)) for kind in (Callback, LightningModule) for name in HOOKS)


class Probe(Callback):
    """Record what is changed while training, and fail if asked to."""

    def __init__(self, fail: bool = False) -> None:
        self.fail, self.changed = fail, False

    def on_train_batch_end(self, trainer: Any, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        modules = (pl_module, *trainer.callbacks)
        skipped = all(getattr(each, name) is None for each in modules for name in HOOKS if name in vars(each))
        self.changed = skipped and vars(pl_module).get("on_before_zero_grad", self) is None and not untouched()
        if self.fail:
            raise OSError("interrupted")


def untouched() -> bool:
    """Tell whether Lightning is as it was imported."""
    original = training_epoch_loop.is_param_in_hook_signature is is_param_in_hook_signature
    return original and "__setattr__" not in vars(LightningModule)


@pytest.mark.parametrize("args", [SHORT, FOREIGN])
def test_nothing_stays_changed_after_training(args: list[str]) -> None:
    x = main([*args, f"--trainer.callbacks={__name__}.Probe"])
    assert callback(x, Probe).changed
    assert untouched()
    assert not any(name in vars(each) for each in (x.task, callback(x, Probe)) for name in HOOKS)


@pytest.mark.parametrize("args", [SHORT, FOREIGN])
def test_nothing_stays_changed_after_a_failed_training(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    probes: list[Any] = []
    start = patches.LowOverhead.on_train_start

    def watched(self: Any, trainer: Any, pl_module: LightningModule) -> None:
        start(self, trainer, pl_module)
        probes.extend([pl_module, *(each for each in trainer.callbacks if type(each).__name__ == "Probe")])

    monkeypatch.setattr(patches.LowOverhead, "on_train_start", watched)
    with pytest.raises(OSError, match="interrupted"):
        main([*args, f"--trainer.callbacks={__name__}.Probe", "--trainer.callbacks.fail=true"])
    assert probes[1].changed
    assert untouched()
    assert not any(name in vars(each) for each in probes for name in HOOKS)


def test_attributes_of_a_module_are_set_as_before_while_training() -> None:
    x = main([*SHORT, f"--model={__name__}.Growing"])
    assert x.task.plain == 3
    assert dict(x.task.named_modules())["grown"] is x.task.grown  # registered by torch


class Growing(Classifier):
    """Add a module and set an attribute in a hook of training."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.plain = batch_idx + 1
        self.grown = type(self.net)(10)


class Moved(Classifier):
    """Count the batches that the module moves to the device."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        self.moved = getattr(self, "moved", 0) + 1
        return batch


@pytest.mark.filterwarnings("ignore:You have overridden")
def test_the_owner_of_a_transfer_hook_is_looked_up_once() -> None:
    args = ["--trainer.limit_val_batches=0", "--best.monitor=train/loss"]
    x = main([*SHORT, f"--model={__name__}.Moved", *args])
    lookups = x.trainer._data_connector._datahook_selector.get_instance.cache_info()
    assert (lookups.misses, lookups.hits) == (3, 6)
    assert x.task.moved == 3


class OneArgument(LightningModule):
    def training_step(self, batch: Any) -> Any:
        return batch


class TwoArguments(LightningModule):
    @wraps(OneArgument.training_step)
    def training_step(self, batch: Any, index: int) -> Any:
        return batch, index


class Decorated(LightningModule):
    @wraps(TwoArguments.training_step)
    def training_step(self, *args: Any) -> Any:
        return args


class Replaced(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.training_step = lambda batch: batch


@pytest.mark.parametrize("kind", [OneArgument, TwoArguments, Decorated, Replaced, Classifier])
def test_the_cache_agrees_with_lightning_and_keeps_no_module_alive(kind: Any) -> None:
    module = kind.__new__(kind) if kind is Classifier else kind()
    for _ in range(2):
        expected = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        assert has_param(module.training_step, "batch_idx", min_args=2) == expected
    reference = weakref.ref(module)
    del module
    gc.collect()
    assert reference() is None


def test_the_arguments_of_a_step_are_looked_up_once() -> None:
    cached_has_param.cache_clear()
    main(SHORT)
    lookups = cached_has_param.cache_info()
    assert (lookups.misses, lookups.hits) == (1, 2)


def test_a_configured_profiler_is_used() -> None:
    assert isinstance(main([*SHORT, "--trainer.profiler=simple"]).trainer.profiler, SimpleProfiler)
    assert isinstance(main(SHORT).trainer.profiler, NoOpProfiler)
