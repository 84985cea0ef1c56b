"""fit: what a run prints and writes, and when it trains nothing."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from torch.utils.data import DataLoader, TensorDataset

from src.cli import main
from src.data import Digits
from src.tasks import Classifier, Task
from tests.conftest import SMALL, PlainModule, rows, same, weights
from tests.own_code import Loaders

RUN = Path("runs/digits/version_0")
STOP_EARLY = ["--config=configs/presets/early_stopping.yaml", "--trainer.callbacks.patience=1"]


class PowerCutError(Exception):
    """The power fails."""


def interrupt(*_: object) -> None:
    raise PowerCutError


def results(run: Path = RUN) -> dict[str, float]:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def test_fit_prints_and_writes_metrics_and_the_next_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL], owns_process=True)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    line = (
        r"epoch 1/3  train/loss [\d.]+  val/loss [\d.]+  val/accuracy [\d.]+  lr [\d.e-]+  [\d.]+ s  [\d,]+ samples/s"
    )
    assert re.fullmatch(line, lines[0])
    assert [text[:9] for text in lines[:3]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert lines[4].split() == ["metric", "val", "test", "reference"]
    assert re.search(r"^accuracy +0\.\d{4} +0\.\d{4} +0\.1000$", out, re.M)
    assert re.search(rf"^run +{RUN}$", out, re.M)
    for command in ("fit --run", "test --run", "predict --run"):
        assert f"python -m src.cli {command} {RUN}" in out
    assert all(character.isprintable() for character in out.replace("\n", ""))
    assert max(map(len, lines[3:])) <= 80
    assert err == ""
    assert {"config.yaml", "metrics.csv", "provenance.json", "results.json"} <= {file.name for file in RUN.iterdir()}
    assert list(RUN.glob("events.out.tfevents.*"))
    assert {"val/accuracy", "test/accuracy", "test/f1", "test/f1/7", "test/top5_accuracy", "seconds"} <= set(results())
    written = json.loads((RUN / "provenance.json").read_text(encoding="utf-8"))[0]
    assert written["split"] == torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["Digits"]["split_hash"]


def test_fit_does_not_load_the_test_split_without_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, train: loaded.append(train) or load(self, train))
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false"])
    assert loaded == [True]
    assert not any("test" in key for key in results())


@pytest.mark.heavy
def test_the_printed_and_the_written_config_repeat_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *SMALL, "--print_config"])
    assert stop.value.code == 0
    Path("again.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    main(["fit", *SMALL])
    main(["fit", "--config=again.yaml", "--name=digits"])
    assert same(weights(RUN), weights("runs/digits/version_1"))
    main(["fit", f"--config={RUN}/config.yaml"])
    assert same(weights(RUN), weights("runs/digits/version_2"))


@pytest.mark.parametrize("stop", [["--trainer.max_steps=30"], STOP_EARLY], ids=["max_steps", "early_stopping"])
def test_fit_again_of_a_complete_run_changes_nothing(capsys: pytest.CaptureFixture[str], stop: list[str]) -> None:
    args = ["fit", *SMALL, *stop, "--model.optimizer.lr=0.5", "--trainer.max_epochs=9", "--resume=auto"]
    main(args)
    before = {file: file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()}
    capsys.readouterr()
    main(args)
    out = capsys.readouterr().out
    assert out.startswith("complete")
    assert len(out.splitlines()) == 1
    assert before == {file: file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()}
    main([*args, "--trainer.max_steps=200"])
    assert capsys.readouterr().out.startswith(f"resumed  {RUN}, after step ")
    assert {file.name for file in RUN.glob("results*")} == {"results.json", "results_0.json"}


@pytest.mark.heavy
def test_a_run_that_stopped_early_is_evaluated_and_not_trained_on() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "on_test_start", interrupt)
        with pytest.raises(PowerCutError):
            main(["fit", *SMALL, *STOP_EARLY, "--model.optimizer.lr=0.5", "--trainer.max_epochs=9"])
    stopped = (RUN / "checkpoints/last.ckpt").read_bytes()
    assert not (RUN / "results.json").exists()
    main(["fit", f"--run={RUN}"])
    assert (RUN / "checkpoints/last.ckpt").read_bytes() == stopped
    assert (RUN / "results.json").is_file()


def test_fast_dev_run_leaves_the_results_of_a_run_unchanged(trained: Path) -> None:
    before = (trained / "results.json").read_bytes()
    main(["fit", f"--run={trained}", "--trainer.fast_dev_run=2"])
    assert (trained / "results.json").read_bytes() == before


@pytest.mark.heavy
def test_max_time_ends_a_run_at_the_end_of_an_epoch() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timer, "time_elapsed", lambda timer, *_: 2.0 if timer.start_time() else 0.0)
        patch.setattr(Timer, "on_fit_start", lambda *_: None)  # where it would stop before the first
        x = main(["fit", *SMALL, "--trainer.max_epochs=9", "--trainer.max_time=00:00:00:01", "--test=false"])
    assert (x.trainer.current_epoch, x.trainer.global_step) == (1, 21)


def test_a_warmup_as_long_as_the_run_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_steps=5", "--model.warmup_steps=5", "--test=false"])
    note = "note  warmup_steps (5) >= run length (5 steps):\n      the learning rate never leaves warm-up\n"
    assert note in capsys.readouterr().out


def test_loss_optimizer_and_schedule_are_dotted_paths() -> None:
    settings = ["--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.label_smoothing=0.1"]
    settings += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.momentum=0.9", "--model.optimizer.lr=0.1"]
    settings += ["--model.schedule=torch.optim.lr_scheduler.StepLR", "--model.schedule.step_size=30"]
    x = main(["fit", *SMALL, *settings, "--model.warmup_steps=0", "--test=false"])
    assert isinstance(x.task, Classifier)
    assert x.task.loss.label_smoothing == 0.1
    (group, _) = x.trainer.optimizers[0].param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0.05)
    assert group["lr"] == pytest.approx(0.1 * 0.1 ** (63 // 30))


def test_a_plain_module_trains_resumes_tests_and_predicts(capsys: pytest.CaptureFixture[str]) -> None:
    path = f"{PlainModule.__module__}.{PlainModule.__name__}"
    fit = ["fit", "--data=src.data.Digits", f"--model={path}", "--name=plain"]
    main([*fit, "--trainer.max_epochs=4"])
    main([*fit, "--trainer.max_epochs=2"])
    run = Path("runs/plain/version_1")
    main(["fit", f"--run={run}", "--trust", "--trainer.max_epochs=4"])
    assert same(weights("runs/plain/version_0"), weights(run))
    assert results(run)["test/accuracy"] > 0.85
    capsys.readouterr()
    main(["test", f"--run={run}", "--trust"])
    assert f"{results(run)['test/accuracy']:.4f}" in capsys.readouterr().out
    main(["predict", f"--run={run}", "--trust"])
    assert len((run / "predictions.csv").read_text(encoding="utf-8").splitlines()) == 361


def test_a_checkpoint_callback_of_the_config_does_not_choose_the_best() -> None:
    settings = ["monitor=val/accuracy", "mode=min", "filename=worst"]
    own = ["--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"]
    main(["fit", *SMALL, *own, *(f"--trainer.callbacks.{setting}" for setting in settings)])
    best = max(float(row["val/accuracy"]) for row in rows(RUN) if row["val/accuracy"])
    assert results()["val/accuracy"] == best
    x = main(["validate", f"--run={RUN}"])
    assert x.trainer.callback_metrics["val/accuracy"] == pytest.approx(best)


def test_a_run_folder_deleted_during_training_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Task, "on_validation_epoch_end", lambda _: shutil.rmtree("runs", ignore_errors=True))
    settings = ["--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=0", "--best.monitor=train/loss"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *SMALL, *settings])
    assert stop.value.code == 2
    assert f"error: the run folder {RUN.absolute()} was deleted during training\n" in capsys.readouterr().err


def test_ctrl_c_before_the_first_checkpoint_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Task, "configure_optimizers", press)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["fit", *SMALL])
    finally:
        signal.signal(signal.SIGINT, handler)
    assert stop.value.code == 130
    assert "nothing is saved" in capsys.readouterr().out
    assert not RUN.exists()


def test_training_data_without_a_batch_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = DataLoader(TensorDataset(torch.ones(3, 64), torch.ones(3)), batch_size=5, drop_last=True)
    monkeypatch.setattr(Loaders, "train_dataloader", lambda _: few)
    own = ["--model=tests.own_code.Plain", "--data=tests.own_code.Loaders", "--trainer.max_epochs=1"]
    with pytest.warns(UserWarning, match="zero"), pytest.raises(SystemExit) as stop:
        main(["fit", *own])
    assert stop.value.code == 2
    assert "\nerror: training has no batches: use more data or smaller" in f"\n{capsys.readouterr().err}"
    assert not list(Path().glob("runs/*/*"))
