"""schedule: the picture shows the learning rates that training then has."""

import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from src.cli import main
from src.commands.schedule import LRRecorder
from tests.conftest import FIT, refused, rows

SETTINGS = [*FIT[1:], "--model.warmup_steps=10"]


def curves(x: Any) -> dict[tuple[float, ...], list[str]]:
    """Return the recorded learning rates, with the names of the parameters."""
    (recorder,) = [callback for callback in x.trainer.callbacks if isinstance(callback, LRRecorder)]
    return recorder.curves()


def test_schedule_draws_the_rates_of_training_and_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    x = main(["schedule", *SETTINGS, "--model.groups=[{match: head.weight, lr: 0.01}]"])
    assert imread("schedule.png").shape[1] > 500
    assert not Path("runs").exists()
    assert "42" in capsys.readouterr().out
    (plain, names), (head, only) = curves(x).items()
    assert only == ["head.weight"]
    assert len(names) == len(list(x.task.net.parameters())) - 1
    main(["fit", *SETTINGS, "--trainer.log_every_n_steps=1"])
    run = Path("runs/digits/version_0")
    logged = [float(row["lr-AdamW/pg1"]) for row in rows(run) if row["lr-AdamW/pg1"]]
    assert list(plain) == pytest.approx(logged)
    assert [rate * 2.5 for rate in plain] == pytest.approx(head)
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    (rates,) = curves(main(["schedule", f"--run={run}", "--trainer.max_epochs=4"]))  # complete, not from its end on
    assert len(rates) == 84
    assert rates[0] == pytest.approx(4e-3 / 11)
    assert rates[-1] > 0
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()} == before


def test_min_epochs_are_not_trained() -> None:
    assert main(["schedule", *SETTINGS, "--trainer.min_epochs=2"]).trainer.current_epoch == 0


def test_the_picture_says_that_it_leaves_out_a_plateau_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda _, title: titles.append(title))
    plateau = '{"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau"}'
    x = main(["schedule", *SETTINGS, f"--model.schedule={plateau}", "--output=p.svg"])
    assert titles == ["without ReduceLROnPlateau, which reacts to val/loss"]
    (rates,) = curves(x)
    assert rates[10:] == pytest.approx([4e-3] * 32)  # the warm-up is over
    assert Path("p.svg").is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--output=x.foo"], "cannot write x.foo: Format 'foo' is not supported"),
        (["--output=absent/x.png"], "cannot write absent/x.png"),
        (["--trainer.max_epochs=-1"], "the run length is unknown: set --trainer.max_epochs"),
        (["--images=x.png"], "--images is an option of predict, not of schedule"),
    ],
)
def test_an_invalid_option_of_schedule_is_refused(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "schedule", *SETTINGS, *args)


def test_a_schedule_that_counts_epochs_is_stepped_after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("halved.py").write_text(
        "from src.tasks import Classifier\n"
        "import torch\n"
        "class Halved(Classifier):\n"
        "    def configure_optimizers(self):\n"
        "        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)\n"
        "        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), *sys.path])
    x = main(["schedule", "--config=configs/digits.yaml", "--model=halved.Halved", "--trainer.max_epochs=3"])
    (rates,) = curves(x)
    assert list(rates) == [1.0] * 21 + [0.5] * 21 + [0.25] * 21


def test_a_schedule_needs_no_teacher_and_no_weights() -> None:
    for args in (["--config=configs/digits_distill.yaml"], ["--config=configs/digits.yaml", "--model.weights=none.pt"]):
        Path("schedule.png").unlink(missing_ok=True)
        main(["schedule", *args])
        assert Path("schedule.png").is_file()
