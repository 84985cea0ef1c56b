"""What costs each step is left out, and nothing else."""

import gc
import weakref
from functools import wraps
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from src.cli import main
from src.lean import HOOKS, Untimed, has_argument, has_argument_once, skip_empty_hooks
from src.tasks import Classifier

FIT = ["fit", "--config=configs/digits.yaml", "--model.net.width=2", "--trainer.max_epochs=1", "--test=false"]


class Counting(Callback):
    """Counts the batches that it is told of."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *args: Any) -> None:  # noqa: ARG002
        self.batches += 1


def test_only_hooks_that_do_nothing_are_passed_over() -> None:
    callback = Counting()
    callback.on_before_backward = print
    skip_empty_hooks(callback)
    assert {name for name in HOOKS if getattr(callback, name) is None} == {*HOOKS} - {
        "on_train_batch_end",
        "on_before_backward",
    }


def test_hooks_of_modules_and_callbacks_are_called_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in HOOKS:
        monkeypatch.setattr("src.tasks.Task." + name, lambda *_, name=name: called.append(name), raising=False)
    cli = main([*FIT, "--trainer.callbacks=tests.test_lean.Counting", "--trainer.limit_train_batches=3"])
    assert sorted(called) == sorted(3 * HOOKS)
    assert next(each for each in cli.trainer.callbacks if type(each).__name__ == "Counting").batches == 3


def test_all_hooks_of_lightning_that_are_skipped_are_there() -> None:
    assert all(callable(getattr(kind, name)) for kind in (Callback, LightningModule) for name in HOOKS)


class Moved(Classifier):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        self.moved = getattr(self, "moved", 0) + 1
        return batch


@pytest.mark.filterwarnings("ignore:You have overridden")
def test_who_moves_batches_is_asked_once_and_moves_them_as_before() -> None:
    typed = ["--trainer.limit_train_batches=3", "--trainer.limit_val_batches=0", "--best.monitor=train/loss"]
    cli = main([*FIT, "--model=tests.test_lean.Moved", *typed])
    asked = cli.trainer._data_connector._datahook_selector.get_instance.cache_info()
    assert (asked.misses, asked.hits) == (3, 6)
    assert cli.model.moved == 3


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
def test_lightning_is_told_of_a_step_what_it_would_find_and_no_module_is_kept(kind: Any) -> None:
    module = kind.__new__(kind) if kind is Classifier else kind()
    for _ in range(2):
        found = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        assert has_argument(module.training_step, "batch_idx", min_args=2) == found
    kept = weakref.ref(module)
    del module
    gc.collect()
    assert kept() is None


def test_what_a_step_takes_is_asked_once() -> None:
    has_argument_once.cache_clear()
    main([*FIT, "--trainer.limit_train_batches=3"])
    asked = has_argument_once.cache_info()
    assert (asked.misses, asked.hits) == (1, 2)


def test_a_profiler_that_is_asked_for_is_used() -> None:
    assert isinstance(main([*FIT, "--trainer.profiler=simple"]).trainer.profiler, SimpleProfiler)
    assert isinstance(main(FIT).trainer.profiler, Untimed)
