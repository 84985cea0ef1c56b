"""fit, continue, validate, test and predict, as a user types them."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning import LightningModule
from lightning.pytorch.callbacks import Timer
from PIL import Image
from torch import Tensor, nn

from src.cli import main
from src.data import Digits
from src.tasks import Classifier, Task

ROOT = Path(__file__).parents[1]
# a net with dropout, and augmentation: whatever is drawn at random has to be drawn again after a resume
SMALL = [
    "--config=configs/digits.yaml",
    "--model.net=src.nets.MLP",
    "--model.net.image_shape=[1,8,8]",
    "--model.net.hidden_sizes=[16]",
    "--model.net.dropout=0.2",
    "--trainer.max_epochs=3",
]


class CutOffError(Exception):
    """Stands for a machine that is switched off."""


def weights(run: str, kind: str = "last") -> dict[str, Tensor]:
    return torch.load(f"{run}/checkpoints/{kind}.ckpt", weights_only=True)["state_dict"]


def rows(run: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(run, "metrics.csv").read_text().splitlines()))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_fit_ends_with_both_metrics_and_the_next_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    line = (
        r"epoch 1/3  train/loss [\d.]+  val/loss [\d.]+  val/accuracy [\d.]+  lr [\d.e-]+  [\d.]+ s  [\d,]+ samples/s"
    )
    assert re.fullmatch(line, lines[0])
    assert [text[:9] for text in lines[:3]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert lines[4].split() == ["metric", "val", "test"]
    assert re.search(r"^accuracy +0\.\d{4} +0\.\d{4}$", out, re.M)
    assert "run   runs/digits/version_0" in lines
    for command in ("fit --run", "test --run", "predict --run"):
        assert f"python -m src.cli {command} runs/digits/version_0" in out
    assert all(character.isprintable() for character in out.replace("\n", ""))
    assert max(map(len, lines[3:])) <= 80
    assert err == ""
    run = Path("runs/digits/version_0")
    assert {"config.yaml", "metrics.csv", "provenance.json", "results.json"} <= {file.name for file in run.iterdir()}
    assert list(run.glob("events.out.tfevents.*"))
    results = json.loads((run / "results.json").read_text())
    assert {"val/accuracy", "test/accuracy", "test/f1", "test/f1/7", "test/top5_accuracy", "seconds"} <= set(results)
    written = json.loads((run / "provenance.json").read_text())[0]
    assert written["split"] == torch.load(run / "checkpoints/best.ckpt", weights_only=True)["Digits"]["split_hash"]


def test_the_test_set_is_not_touched_where_no_test_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, train: loaded.append(train) or load(self, train))
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false"])
    assert loaded == [True]
    assert not any("test" in key for key in json.loads(Path("runs/digits/version_0/results.json").read_text()))


def test_the_printed_config_runs_again_with_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *SMALL, "--print_config"])
    assert stop.value.code == 0
    Path("again.yaml").write_text(capsys.readouterr().out)
    main(["fit", *SMALL])
    main(["fit", "--config=again.yaml"])
    assert same(weights("runs/digits/version_0"), weights("runs/digits/version_1"))
    main(["fit", "--config=runs/digits/version_0/config.yaml"])
    assert same(weights("runs/digits/version_0"), weights("runs/digits/version_2"))


@pytest.mark.parametrize("limit", [["--trainer.max_epochs=3"], ["--trainer.max_epochs=-1", "--trainer.max_steps=63"]])
@pytest.mark.parametrize("step", [21, 25, 42, 50])
def test_a_run_that_was_cut_off_goes_on_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, step: int, limit: list[str]
) -> None:
    typed = ["fit", *SMALL, "--last.every_n_steps=5", *limit]
    main(typed)
    with monkeypatch.context() as patch:

        def cut(self: Task, *_: object) -> None:
            if self.global_step == step:
                raise CutOffError

        patch.setattr(Task, "on_before_zero_grad", cut)
        with pytest.raises(CutOffError):
            main(typed)
    main(["fit", "--run=runs/digits/version_1"])
    whole, cut_off = (torch.load(f"runs/digits/version_{i}/checkpoints/last.ckpt", weights_only=True) for i in (0, 1))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert same(whole[key], cut_off[key]), key
    assert same(weights("runs/digits/version_0", "best"), weights("runs/digits/version_1", "best"))
    drop = ("lr-AdamW/pg1", "lr-AdamW/pg2")
    first, second = (
        [{k: v for k, v in row.items() if k not in drop} for row in rows(f"runs/digits/version_{i}")] for i in (0, 1)
    )
    assert first == second
    main(["fit", "--run=runs/digits/version_1"])  # complete: nothing is trained, nothing is written
    assert len(json.loads(Path("runs/digits/version_1/provenance.json").read_text())) == 2


@pytest.mark.parametrize(
    "stop",
    [["--trainer.max_steps=30"], ["--config=configs/presets/early_stopping.yaml", "--trainer.callbacks.patience=1"]],
)
def test_the_command_of_a_run_that_is_complete_changes_nothing(
    capsys: pytest.CaptureFixture[str], stop: list[str]
) -> None:
    typed = ["fit", *SMALL, *stop, "--model.optimizer.lr=0.5", "--trainer.max_epochs=9", "--resume=auto"]
    main(typed)
    before = {file: file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()}
    capsys.readouterr()
    main(typed)
    out = capsys.readouterr().out
    assert out.startswith("complete")
    assert len(out.splitlines()) == 1
    assert before == {file: file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()}
    main([*typed, "--trainer.max_steps=200"])
    assert capsys.readouterr().out.startswith("goes on  runs/digits/version_0, after step ")
    assert {file.name for file in Path("runs/digits/version_0").glob("results*")} == {"results.json", "results_0.json"}


def test_a_run_that_stopped_early_and_was_cut_off_is_judged_and_not_trained_on() -> None:
    stop = ["--config=configs/presets/early_stopping.yaml", "--trainer.callbacks.patience=1"]
    typed = ["fit", *SMALL, *stop, "--model.optimizer.lr=0.5", "--trainer.max_epochs=9"]

    def cut_off(*_: object) -> None:
        raise CutOffError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "on_test_start", cut_off)
        with pytest.raises(CutOffError):
            main(typed)
    folder = Path("runs/digits/version_0")
    stopped = (folder / "checkpoints/last.ckpt").read_bytes()
    assert not (folder / "results.json").exists()
    main(["fit", f"--run={folder}"])
    assert (folder / "checkpoints/last.ckpt").read_bytes() == stopped
    assert (folder / "results.json").is_file()


def test_a_look_at_two_batches_leaves_the_results_of_a_run_as_they_are() -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1"])
    results = Path("runs/digits/version_0/results.json").read_bytes()
    main(["fit", "--run=runs/digits/version_0", "--trainer.fast_dev_run=2"])
    assert Path("runs/digits/version_0/results.json").read_bytes() == results


def test_a_checkpoint_that_is_typed_is_gone_on_with() -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=2", "--test=false", "--best.monitor=val/loss", "--best.mode=max"])
    run = Path("runs/digits/version_0")
    assert torch.load(run / "checkpoints/best.ckpt", weights_only=True)["epoch"] == 0
    cli = main(["fit", f"--run={run}", f"--ckpt_path={run}/checkpoints/best.ckpt"])
    assert cli.trainer.current_epoch == 2


def test_a_run_that_began_with_a_checkpoint_goes_on_with_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--name=before"])
    typed = ["fit", *SMALL, "--resume=auto", "--ckpt_path=runs/before/version_0/checkpoints/last.ckpt"]
    main([*typed, "--trainer.max_epochs=2"])
    assert "after step 21" in capsys.readouterr().out
    main(typed)
    assert "goes on  runs/digits/version_0, after step 42" in capsys.readouterr().out
    main([*typed, "--data.fold=1"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("complete  3 epochs")
    assert printed[1] == "note  what was typed differs from its config.yaml, and was not used"


def test_where_the_time_is_up_the_epoch_is_finished() -> None:
    typed = ["fit", *SMALL, "--trainer.max_epochs=9", "--trainer.max_time=00:00:00:00", "--test=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timer, "on_fit_start", lambda *_: None)  # where it would stop before the first
        cli = main(typed)
    assert (cli.trainer.current_epoch, cli.trainer.global_step) == (1, 21)


def test_a_warm_up_that_does_not_end_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_steps=5", "--model.warmup_steps=5", "--test=false"])
    assert "note  warmup_steps is 5, the run has 5 steps: the rate only rises" in capsys.readouterr().out


def test_what_is_typed_goes_before_what_the_checkpoint_stored() -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--model.schedule=null", "--model.warmup_steps=0", "--test=false"])
    run = "--run=runs/digits/version_0"
    typed = ["--trainer.max_epochs=2", "--model.optimizer.lr=0.125", "--model.optimizer.weight_decay=0.5"]
    cli = main(["fit", run, *typed, "--test=false"])
    decayed, exempt = cli.trainer.optimizers[0].param_groups
    assert (decayed["lr"], exempt["lr"]) == (0.125, 0.125)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.5, 0.0)
    assert yaml.safe_load(Path("runs/digits/version_0/config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert len(list(Path("runs/digits/version_0").glob("config_*.yaml"))) == 1
    cli = main(["fit", run, "--trainer.max_epochs=3", "--test=false"])
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == 0.125


def test_the_first_epoch_of_a_continued_run_has_a_pace(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false"])
    capsys.readouterr()
    main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=2", "--test=false"])
    out = capsys.readouterr().out
    assert "epoch 2/2" in out
    assert "  0 samples/s" not in out


def test_a_longer_run_stretches_its_schedule() -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false"])
    cli = main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=4", "--test=false"])
    steps = 4 * 21
    share = (steps - 40) / (steps - 40)
    assert cli.trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0] == pytest.approx(
        0.5 * 4e-3 * (1 + np.cos(np.pi * share))
    )
    half = main(["fit", *SMALL, "--trainer.max_epochs=4", "--trainer.max_steps=62", "--test=false"])
    assert half.trainer.global_step == 62


def test_validate_test_and_predict_find_the_best_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL])
    results = json.loads(Path("runs/digits/version_0/results.json").read_text())
    capsys.readouterr()
    for command, stage in (("validate", "val"), ("test", "test")):
        main([command, "--run=runs/digits/version_0"])
        out = capsys.readouterr().out
        assert f"{results[f'{stage}/accuracy']:.4f}" in out
        assert "runs/digits/version_0/checkpoints/best.ckpt" in out
    main(["predict", "--run=runs/digits/version_0"])
    table = list(csv.reader(Path("runs/digits/version_0/predictions.csv").read_text().splitlines()))
    assert table[0] == ["image", "prediction", "probability", *map(str, range(10))]
    _, targets = Digits().load(train=False)
    right = np.mean([int(row[1]) == target for row, target in zip(table[1:], targets.tolist(), strict=True)])
    assert right == pytest.approx(results["test/accuracy"])
    assert all(sum(map(float, row[3:])) == pytest.approx(1, abs=1e-4) for row in table[1:])


def test_image_files_are_predicted_as_the_same_pixels_of_the_test_set(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=2", "--test=false"])
    images, _ = Digits().load(train=False)
    Path("photos/deep").mkdir(parents=True)
    Image.fromarray(images[0, 0].numpy()).save("photos/0.png")
    Image.fromarray(images[1, 0].numpy()).convert("RGB").save("photos/deep/1.BMP")
    Image.fromarray(images[2, 0].numpy().astype(np.uint16) * 257).save("photos/2.png")
    Image.fromarray(images[3, 0].numpy()).convert("RGB").convert("CMYK").save("3.tiff")
    main(["predict", "--run=runs/digits/version_0", "--output=all.csv"])
    capsys.readouterr()
    load = Digits.load
    try:
        Digits.load = None  # type: ignore[method-assign,assignment]  # no data set is needed
        main(["predict", "--run=runs/digits/version_0", "--output=files.csv", "--images", "photos", "3.tiff"])
    finally:
        Digits.load = load  # type: ignore[method-assign]
    out = capsys.readouterr().out
    assert re.search(r"^photos/0.png +\d \d+\.\d%  \d \d+\.\d%  \d \d+\.\d%$", out, re.M)
    expected = {row[0]: row[1:] for row in csv.reader(Path("all.csv").read_text().splitlines())}
    got = {row[0]: row[1:] for row in csv.reader(Path("files.csv").read_text().splitlines())}
    places = {"photos/0.png": 0, "photos/deep/1.BMP": 1, "photos/2.png": 2, "3.tiff": 3}
    assert got.keys() == {"image", *places}
    for name, place in places.items():
        assert got[name][0] == expected[f"test/{place}"][0]
        assert [float(p) for p in got[name][2:]] == pytest.approx(
            [float(p) for p in expected[f"test/{place}"][2:]], abs=2e-2
        )


class Plain(LightningModule):
    """Shares nothing with Task."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr, self.net = lr, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        self.log("val/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        self.log("test/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def test_a_plain_module_trains_continues_tests_and_predicts(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--data=src.data.Digits", f"--model={__name__}.Plain", "--trainer.max_epochs=4", "--name=plain"])
    main(["fit", "--data=src.data.Digits", f"--model={__name__}.Plain", "--trainer.max_epochs=2", "--name=plain"])
    main(["fit", "--run=runs/plain/version_1", "--trust", "--trainer.max_epochs=4"])
    assert same(weights("runs/plain/version_0"), weights("runs/plain/version_1"))
    results = json.loads(Path("runs/plain/version_1/results.json").read_text())
    assert results["test/accuracy"] > 0.85
    capsys.readouterr()
    main(["test", "--run=runs/plain/version_1", "--trust"])
    assert f"{results['test/accuracy']:.4f}" in capsys.readouterr().out
    main(["predict", "--run=runs/plain/version_1", "--trust"])
    table = list(csv.reader(Path("runs/plain/version_1/predictions.csv").read_text().splitlines()))
    assert len(table) == 361


def test_two_processes_train_and_test_as_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "src.cli", "fit", *SMALL, "--config=configs/presets/ddp.yaml"]
    command += ["--trainer.accelerator=cpu", "--trainer.devices=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^epoch \d/3", done.stdout, re.M)) == 3  # one process speaks
    assert [folder.name for folder in Path("runs/digits").iterdir()] == ["version_0"]
    results = json.loads(Path("runs/digits/version_0/results.json").read_text())
    main(["test", "--run=runs/digits/version_0", "--trainer.devices=1", "--trainer.strategy=auto"])
    cli = main(["test", "--run=runs/digits/version_0", "--trainer.devices=1", "--trainer.strategy=auto"])
    one = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
    assert {key: results[key] for key in one} == pytest.approx(one, abs=1e-5)  # each sample counted once
    steps = torch.load("runs/digits/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert steps == 3 * 11  # 1,293 samples, 2 x 64 a step


def test_loss_optimizer_and_schedule_are_dotted_paths() -> None:
    typed = ["--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.label_smoothing=0.1"]
    typed += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.momentum=0.9", "--model.optimizer.lr=0.1"]
    typed += ["--model.schedule=torch.optim.lr_scheduler.StepLR", "--model.schedule.step_size=30"]
    cli = main(["fit", *SMALL, *typed, "--model.warmup_steps=0", "--test=false"])
    assert isinstance(cli.model, Classifier)
    assert cli.model.loss.label_smoothing == 0.1
    (group, _) = cli.trainer.optimizers[0].param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0.05)
    assert group["lr"] == pytest.approx(0.1 * 0.1 ** (63 // 30))


def test_a_crash_of_two_processes_leaves_earlier_runs_alone(tmp_path: Path) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false"])
    command = [sys.executable, "-m", "src.cli", "fit", "--config=configs/digits.yaml", "--model.net.in_channels=3"]
    command += ["--config=configs/presets/ddp.yaml", "--trainer.accelerator=cpu", "--trainer.devices=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
    assert "the net does not take the data's images, (C, H, W) = (1, 8, 8)" in done.stderr
    assert [folder.name for folder in Path("runs/digits").iterdir()] == ["version_0"]
    assert weights("runs/digits/version_0")


@pytest.mark.parametrize(
    "typed", [["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"], ["--model.schedule=null"]]
)
def test_another_optimizer_or_schedule_is_refused_and_the_run_stays_as_it_was(
    capsys: pytest.CaptureFixture[str], typed: list[str]
) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false"])
    before = Path("runs/digits/version_0/config.yaml").read_text()
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=2", *typed])
    assert stop.value.code == 2
    assert "another kind than the checkpoint's" in capsys.readouterr().err
    assert Path("runs/digits/version_0/config.yaml").read_text() == before
    main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=2", "--test=false"])


@pytest.mark.parametrize("schedule", ["src.optim.OneCycle", "null"])
def test_another_warm_up_is_refused_when_a_run_goes_on(schedule: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false", f"--model.schedule={schedule}"])
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=2", "--model.warmup_steps=10"])
    assert stop.value.code == 2
    assert "warmup_steps was 40, is 10" in capsys.readouterr().err


def test_another_length_of_a_schedule_of_torch_is_applied_when_a_run_goes_on() -> None:
    linear = ["--model.schedule=torch.optim.lr_scheduler.LinearLR", "--model.schedule.total_iters=500"]
    main(["fit", *SMALL, *linear, "--trainer.max_epochs=1", "--test=false"])
    more = ["--trainer.max_epochs=2", "--test=false", "--model.schedule.total_iters=900"]
    schedule = main(["fit", "--run=runs/digits/version_0", *more]).trainer.lr_scheduler_configs[0].scheduler
    assert schedule._schedulers[1].total_iters == 900


def test_a_setting_that_needs_a_past_which_was_not_kept_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false"])
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=2", "--model.optimizer.amsgrad=true"])
    assert stop.value.code == 2
    assert "error: amsgrad was False, is True: the checkpoint lacks what it needs" in capsys.readouterr().err


def test_a_run_goes_on_though_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    command = f"{sys.executable} -m src.cli fit {' '.join(SMALL)} --test=false | head -1"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.startswith("epoch 1/3")
    assert not done.stderr
    assert torch.load("runs/digits/version_0/checkpoints/last.ckpt", weights_only=True)["epoch"] == 2


def test_groups_that_hold_other_parameters_than_before_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    first, other = (f"--model.groups=[{{match: '{layer}.bias', lr: 0.001}}]" for layer in (1, 4))
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false", first])
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=2", other])
    assert stop.value.code == 2
    assert "groups divide the parameters otherwise than the checkpoint's" in capsys.readouterr().err
    main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=2", "--test=false"])


def test_a_checkpoint_callback_of_ones_own_does_not_decide_which_is_best() -> None:
    own = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    worst = [
        "--trainer.callbacks.monitor=val/accuracy",
        "--trainer.callbacks.mode=min",
        "--trainer.callbacks.filename=worst",
    ]
    main(["fit", *SMALL, own, *worst])
    results = json.loads(Path("runs/digits/version_0/results.json").read_text())
    assert results["val/accuracy"] == max(
        float(row["val/accuracy"]) for row in rows("runs/digits/version_0") if row["val/accuracy"]
    )
    cli = main(["validate", "--run=runs/digits/version_0"])
    assert cli.trainer.callback_metrics["val/accuracy"] == pytest.approx(results["val/accuracy"])


def test_ctrl_c_before_anything_is_saved_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Task, "configure_optimizers", interrupt)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["fit", *SMALL])
    finally:
        signal.signal(signal.SIGINT, handler)
    assert stop.value.code == 130
    assert "nothing is saved" in capsys.readouterr().out
    assert not Path("runs/digits/version_0").exists()


def test_a_run_goes_on_though_its_logs_are_torn() -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--test=false"])
    run = Path("runs/digits/version_0")
    for name in ("metrics.csv", "provenance.json"):
        text = (run / name).read_text()
        (run / name).write_text(text[: len(text) - 30])
    main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=2", "--test=false"])
    assert len(json.loads((run / "provenance.json").read_text())) == 1
    assert (run / "provenance.damaged").is_file()
    assert sum(bool(row["train/loss"]) for row in rows("runs/digits/version_0")) >= 1


@pytest.mark.filterwarnings("default:skipped")
def test_bad_images_are_skipped_by_predict_where_that_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for name in "ab":
        Path(f"pictures/train/{name}").mkdir(parents=True)
        for i in range(20):
            Image.fromarray(generator.integers(0, 255, (8, 8, 3), np.uint8)).save(f"pictures/train/{name}/{i}.png")
    typed = [
        "--data=src.data.ImageFolder",
        "--data.root=pictures",
        "--data.size=8",
        "--data.batch_size=8",
        "--model.num_classes=2",
    ]
    main(["fit", *SMALL, *typed, "--data.folds=4", "--model.net.image_shape=[3,8,8]", "--trainer.max_epochs=1"])
    Path("new").mkdir()
    Image.new("L", (30, 20)).save("new/good.png")
    Path("new/bad.png").write_text("no picture")
    predict = ["predict", "--run=runs/digits/version_0", "--images", "new"]
    with pytest.raises(SystemExit):
        main(predict)
    assert "cannot decode new/bad.png" in capsys.readouterr().err
    main([*predict, "--data.on_bad_image=skip"])
    assert "skipped 1 of 2 images: cannot decode new/bad.png" in capsys.readouterr().err
    table = list(csv.reader(Path("runs/digits/version_0/predictions.csv").read_text().splitlines()))
    assert [row[0] for row in table[1:]] == ["new/good.png"]
    main(["predict", "--run=runs/digits/version_0"])
    table = list(csv.reader(Path("runs/digits/version_0/predictions.csv").read_text().splitlines()))
    assert {row[0].split("/")[0] for row in table[1:]} == {"train"}  # held-out pictures, by their names
    assert len(table) == 9
    with pytest.raises(SystemExit) as stop:  # other pictures would be held out, among them some that were trained on
        main(["test", "--run=runs/digits/version_0", "--data.test_share=0.5"])
    assert stop.value.code == 2
    assert "trained on another split" in capsys.readouterr().err


def test_pictures_of_as_many_other_classes_are_not_judged(capsys):
    for root, classes in (("pictures", "ab"), ("others", "bc")):
        for name in (f"{part}/{letter}" for part in ("train", "test") for letter in classes):
            Path(root, name).mkdir(parents=True)
            for i in range(12):
                Image.new("L", (8, 8), i).save(Path(root, name, f"{i}.png"))
    typed = ["--data=src.data.ImageFolder", "--data.size=8", "--data.batch_size=8", "--data.folds=4"]
    typed += ["--model.num_classes=2", "--model.net.image_shape=[3,8,8]", "--trainer.max_epochs=1"]
    main(["fit", *SMALL, *typed, "--data.root=pictures"])
    main(["test", "--run=runs/digits/version_0"])
    with pytest.raises(SystemExit) as stop:
        main(["test", "--run=runs/digits/version_0", "--data.root=others"])
    assert stop.value.code == 2
    assert "others must have the checkpoint's classes; only one has: a, c" in capsys.readouterr().err
