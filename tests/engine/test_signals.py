"""A run that gets a signal saves, prints how to resume, exits with 128 + the signal, and loses nothing."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from src.cli import main
from src.engine import signals
from src.engine.signals import LAUNCH, Signals
from tests.conftest import ROOT, SMALL, rows, same, weights
from tests.processes import Process

FIT = ["fit", *SMALL, "--trainer.max_epochs=2", "--test=false"]
RUN = Path("runs/digits/version_0")
STEPS = 21  # of an epoch
SEND = f"--trainer.callbacks={__name__}.SendAt"
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGUSR1: 138}


@pytest.fixture(autouse=True)
def _default_handlers() -> Iterator[None]:
    """Handle Ctrl-C, which a shell's background jobs ignore, and SIGHUP, which nohup ignores."""
    before = [signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)]
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


class SendAt(Callback):
    """Send a signal to this process once, at a step, in a hook."""

    def __init__(self, number: int, step: int, hook: str = "on_train_batch_start") -> None:
        self.sent = False

        def send(trainer: Any, *_: object) -> None:
            if trainer.global_step == step and not self.sent:
                self.sent = True
                os.kill(os.getpid(), number)

        setattr(self, hook, send)


def send(number: int, step: int, hook: str = "on_train_batch_start") -> list[str]:
    settings = {"number": int(number), "step": step, "hook": hook}
    return [SEND, *(f"--trainer.callbacks.{name}={value}" for name, value in settings.items())]


def interrupted(number: int, step: int, hook: str = "on_train_batch_start", *args: str) -> Any:
    """Train until the signal ends the run, and return the exit code."""
    with pytest.raises(SystemExit) as stop:
        main([*FIT, *send(number, step, hook), *args], owns_process=True)
    return stop.value.code


def resume(*args: str) -> None:
    main(["fit", f"--run={RUN}", "--trust", "--trainer.callbacks=[]", *args], owns_process=True)


def last() -> dict[str, Any]:
    return torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_a_signal_within_an_epoch_ends_the_run_after_the_step(
    capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    handler = signal.getsignal(number)
    assert interrupted(number, 5) == code
    assert f"resume with: python -m src.cli fit --run {RUN}" in capsys.readouterr().out
    assert last()["global_step"] == 6
    assert signal.getsignal(number) == handler


@pytest.mark.parametrize("step", [5, STEPS - 1])
def test_an_interrupted_run_resumes_bit_for_bit(step: int) -> None:
    interrupted(signal.SIGTERM, step)
    resume()
    main(FIT)
    assert same(weights(RUN), weights("runs/digits/version_1"))


@pytest.mark.parametrize(("step", "hook"), [(STEPS - 1, "on_train_batch_start"), (STEPS, "on_validation_batch_start")])
def test_a_signal_at_the_end_of_an_epoch_waits_for_its_validation(step: int, hook: str) -> None:
    assert interrupted(signal.SIGTERM, step, hook) == 143
    assert last()["global_step"] == STEPS
    assert {file.name for file in (RUN / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_what_the_interrupted_step_logs_is_not_lost() -> None:
    log = "--trainer.log_every_n_steps=6"
    interrupted(signal.SIGTERM, 5, "on_train_batch_start", log)
    resume()
    main([*FIT, log])
    assert rows(RUN) == rows("runs/digits/version_1")
    assert any(row["train/loss_step"] for row in rows(RUN))


def test_a_signal_at_the_end_of_training_skips_only_the_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    assert interrupted(signal.SIGTERM, 2 * STEPS, "on_validation_batch_start") == 143
    assert last()["epoch"] == 1
    assert not (RUN / "results.json").exists()
    capsys.readouterr()
    main(["fit", f"--run={RUN}", "--trust"])  # evaluates now
    assert "accuracy" in capsys.readouterr().out
    assert json.loads((RUN / "results.json").read_text(encoding="utf-8"))["val/accuracy"] > 0
    main(["fit", f"--run={RUN}", "--trust"])
    assert capsys.readouterr().out.startswith("complete")


def test_a_signal_before_training_ends_the_run_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert interrupted(signal.SIGTERM, 0, "on_sanity_check_start") == 143
    assert "nothing is saved" in capsys.readouterr().out
    assert not list(Path().glob("runs/*/*"))


def two_signals(seconds: float) -> list[str]:
    """Return a run that gets SIGTERM, then SIGHUP some seconds later, by a clock that only signals read."""
    moments = iter([0.0, *[seconds] * 9])
    signals.time = SimpleNamespace(monotonic=lambda: next(moments))  # type: ignore[attr-defined]
    second = [f"--trainer.callbacks+={__name__}.SendAt", *send(signal.SIGHUP, 5)[1:]]
    return [FIT[0], f"--config={ROOT}/configs/digits.yaml", *FIT[2:], *send(signal.SIGTERM, 5), *second]


@pytest.mark.parametrize(("seconds", "code"), [(0.5, 143), (1.5, -signal.SIGHUP)])
def test_only_a_second_signal_a_second_later_ends_the_run_at_once(seconds: float, code: int) -> None:
    process = Process(lambda: main(two_signals(seconds), owns_process=True), Path("two"))
    assert process.wait() == code, process.log.read_text(encoding="utf-8")


class Handlers(Callback):
    """Record the handlers of all signals while training."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:  # noqa: ARG002
        self.seen = [signal.getsignal(number) for number in CODES]


@pytest.mark.parametrize("owns_process", [False, True])
def test_handlers_change_only_in_a_process_of_its_own(owns_process: bool) -> None:
    before = [signal.getsignal(number) for number in CODES]
    x = main([*FIT, f"--trainer.callbacks={__name__}.Handlers"], owns_process=owns_process)
    (seen,) = [each.seen for each in x.trainer.callbacks if isinstance(each, Handlers)]
    assert seen == ([x.signals.receive] * len(CODES) if owns_process else before)
    assert [signal.getsignal(number) for number in CODES] == before


def test_a_launcher_is_changed_only_in_a_process_of_its_own() -> None:
    launcher = SimpleNamespace(_call_children_scripts=print, procs=[])
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    with signals.Signals(None).handled(trainer, install=False):
        assert getattr(launcher, LAUNCH) is print
    with signals.Signals(None).handled(trainer, install=True):
        assert getattr(launcher, LAUNCH) is not print


def test_lightning_has_what_is_replaced_in_it() -> None:
    assert callable(getattr(_SubprocessScriptLauncher, LAUNCH))
    assert callable(_SignalConnector.register_signal_handlers)


def test_sigusr1_requeues_a_slurm_job(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bin").mkdir()
    Path("bin/scontrol").write_text('#!/bin/sh\necho "$@" > requeued\n', encoding="utf-8")
    Path("bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').resolve()}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert interrupted(signal.SIGUSR1, 5) == 138
    assert Path("requeued").read_text(encoding="utf-8") == "requeue 42\n"


def wait_for(file: Path, process: Process) -> None:
    while not file.is_file():
        assert process.process.is_alive(), process.log.read_text(encoding="utf-8")
        time.sleep(0.05)


def test_a_signal_that_reaches_workers_too_is_no_error() -> None:
    foreign = ["--model=tests.spoilers.OwnModule", "--data=tests.spoilers.OwnData", "--data.num_workers=2"]
    process = Process(["fit", *foreign, "--trainer.accelerator=cpu", "--trainer.max_epochs=500"], Path("own"))
    wait_for(Path("own/runs/run/version_0/checkpoints/last.ckpt"), process)
    process.kill(signal.SIGINT)
    assert process.wait() == 130, process.log.read_text(encoding="utf-8")


def test_an_ignored_signal_stays_ignored() -> None:  # as under nohup
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        main([*FIT, *send(signal.SIGHUP, 5)], owns_process=True)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert last()["global_step"] == 2 * STEPS


class Waits(Callback):
    """Leave a file once a test has begun, and wait."""

    def on_test_start(self, *_: object) -> None:
        Path("begun").touch()
        time.sleep(60)


def test_a_signal_ends_other_commands_at_once(trained: Path) -> None:
    args = ["test", f"--run={trained.resolve()}", f"--trainer.callbacks+={__name__}.Waits", "--trust"]
    process = Process(args, Path("other"))
    wait_for(Path("other/begun"), process)
    process.kill(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM


def test_a_signal_that_arrives_while_ranks_agree_is_not_lost():
    callback = Signals(None)

    def reduce(flag: torch.Tensor, reduce_op: str) -> torch.Tensor:  # noqa: ARG001
        callback.received = callback.received or int(signal.SIGTERM)  # as the handler does, after the flag was read
        return flag

    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=reduce)
    trainer = SimpleNamespace(world_size=2, strategy=strategy, log_every_n_steps=50, global_step=7)
    assert [callback.all_asked(trainer) for _ in range(2)] == [False, True]
    assert callback.received == signal.SIGTERM
