"""A run that is asked to end saves, says how to go on, exits with 128 + the signal, and loses nothing."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from scripts.processes import Process
from src.callbacks.signals import START
from src.cli import main

SMALL = [
    "--config=configs/digits.yaml",
    "--model.net=src.nets.MLP",
    "--model.net.image_shape=[1,8,8]",
    "--model.net.hidden_sizes=[16]",
    "--model.net.dropout=0.2",
    "--trainer.max_epochs=2",
    "--test=false",
]
RUN = Path("runs/digits/version_0")
STEPS = 21  # of an epoch
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)]


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Hear Ctrl-C, which a shell lets jobs in the background ignore, and SIGHUP, as nohup does."""
    before = [signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)]
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


class SendAt(Callback):
    """Sends a signal to this process before a step is done, or while a hook runs."""

    def __init__(self, number: int, step: int, hook: str = "on_train_batch_start", pause: float = 0) -> None:
        self.sent = False

        def send(trainer: Any, *_: object) -> None:
            if trainer.global_step == step and not self.sent:
                self.sent = True
                time.sleep(pause)
                os.kill(os.getpid(), number)

        setattr(self, hook, send)


def ended(number: int, step: int, hook: str = "on_train_batch_start") -> int:
    own = [f"--trainer.callbacks={__name__}.SendAt", f"--trainer.callbacks.number={int(number)}"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *SMALL, *own, f"--trainer.callbacks.step={step}", f"--trainer.callbacks.hook={hook}"])
    return stop.value.code  # type: ignore[return-value]


def last() -> dict[str, Any]:
    return torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_amid_an_epoch_is_answered_after_the_step(
    capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    handler = signal.getsignal(number)
    assert ended(number, 5) == code
    assert f"go on with: python -m src.cli fit --run {RUN}" in capsys.readouterr().out
    assert last()["global_step"] == 6
    assert signal.getsignal(number) == handler


@pytest.mark.parametrize("step", [5, STEPS - 1])
def test_a_run_that_was_asked_to_end_goes_on_to_the_bit(step: int) -> None:
    ended(signal.SIGTERM, step)
    main(["fit", f"--run={RUN}", "--trust", "--trainer.callbacks=[]"])
    main(["fit", *SMALL])
    weights = last()["state_dict"]
    whole = torch.load("runs/digits/version_1/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[key], whole[key]) for key in whole)


@pytest.mark.parametrize(("step", "hook"), [(STEPS - 1, "on_train_batch_start"), (STEPS, "on_validation_batch_start")])
def test_at_the_end_of_an_epoch_its_validation_is_finished(step: int, hook: str) -> None:
    assert ended(signal.SIGTERM, step, hook) == 143
    assert last()["global_step"] == STEPS
    assert {file.name for file in (RUN / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_what_the_step_logs_is_not_lost() -> None:
    log = "--trainer.log_every_n_steps=6"
    SMALL.append(log)
    try:
        ended(signal.SIGTERM, 5)
        main(["fit", *SMALL])
    finally:
        SMALL.remove(log)
    main(["fit", f"--run={RUN}", "--trust", "--trainer.callbacks=[]"])
    rows = [Path(f"runs/digits/version_{i}/metrics.csv").read_text() for i in (0, 1)]
    assert rows[0] == rows[1]
    assert "train/loss_step" in rows[0]


def test_at_the_end_of_training_all_is_saved_and_nothing_tested(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(signal.SIGTERM, 2 * STEPS, "on_validation_batch_start") == 143
    assert last()["epoch"] == 1
    capsys.readouterr()
    assert not (RUN / "results.json").exists()
    main(["fit", f"--run={RUN}", "--trust"])  # judged now
    assert "accuracy" in capsys.readouterr().out
    assert json.loads((RUN / "results.json").read_text())["val/accuracy"] > 0
    main(["fit", f"--run={RUN}", "--trust"])
    assert capsys.readouterr().out.startswith("complete")


def test_before_training_a_signal_is_obeyed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(signal.SIGTERM, 0, "on_sanity_check_start") == 143
    assert "nothing is saved" in capsys.readouterr().out
    assert not list(Path().glob("runs/*/*"))


def test_a_second_signal_is_obeyed_at_once() -> None:
    own = [f"--trainer.callbacks={__name__}.SendAt", f"--trainer.callbacks.number={int(signal.SIGTERM)}"]
    first = ["--trainer.callbacks.step=5", f"--trainer.callbacks+={__name__}.SendAt"]
    second = [
        f"--trainer.callbacks.number={int(signal.SIGHUP)}",
        "--trainer.callbacks.step=5",
        "--trainer.callbacks.pause=1.1",
    ]
    config = f"--config={Path('configs/digits.yaml').resolve()}"
    assert Process(["fit", config, *SMALL[1:], *own, *first, *second], Path("second")).wait() == -signal.SIGHUP


def test_lightning_has_what_is_replaced_in_it() -> None:
    assert callable(getattr(_SubprocessScriptLauncher, START))
    assert callable(_SignalConnector.register_signal_handlers)


def test_a_job_of_slurm_is_put_into_the_queue_again(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bin").mkdir()
    Path("bin/scontrol").write_text('#!/bin/sh\necho "$@" > requeued\n')
    Path("bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').resolve()}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert ended(signal.SIGUSR1, 5) == 138
    assert Path("requeued").read_text() == "requeue 42\n"


def test_a_signal_to_workers_too_ends_the_run_and_not_in_an_error() -> None:
    own = ["--model=scripts.spoilers.OwnModule", "--data=scripts.spoilers.OwnData", "--data.num_workers=2"]
    process = Process(["fit", *own, "--trainer.accelerator=cpu", "--trainer.max_epochs=500"], Path("own"))
    while not Path("own/runs/run/version_0/checkpoints/last.ckpt").is_file():
        time.sleep(0.05)
    process.kill(signal.SIGINT)
    assert process.wait() == 130, process.log.read_text()


def test_a_signal_that_is_ignored_stays_so() -> None:  # as under nohup
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        main(
            [
                "fit",
                *SMALL,
                f"--trainer.callbacks={__name__}.SendAt",
                "--trainer.callbacks.step=5",
                f"--trainer.callbacks.number={int(signal.SIGHUP)}",
            ]
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert last()["global_step"] == 2 * STEPS


class Waits(Callback):
    """Leaves a sign that a test has begun, and waits."""

    def on_test_start(self, *_: object) -> None:
        Path("begun").touch()
        time.sleep(60)


def test_other_commands_end_at_once(tmp_path: Path) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}/runs"])
    typed = ["test", f"--run={tmp_path}/runs/digits/version_0", f"--trainer.callbacks+={__name__}.Waits", "--trust"]
    process, started = Process(typed, tmp_path / "other"), time.monotonic()
    while not (tmp_path / "other/begun").exists() and time.monotonic() - started < 60:
        time.sleep(0.1)
    process.kill(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
