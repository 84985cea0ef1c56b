"""The picture of a schedule shows the learning rates that training then has."""

import csv
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from src.cli import main

SMALL = ["--config=configs/digits.yaml", "--model.net.width=2", "--trainer.max_epochs=2", "--model.warmup_steps=10"]


def test_it_draws_the_rates_of_training_and_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    cli = main(["schedule", *SMALL, "--model.groups=[{match: head.weight, lr: 0.01}]"])
    assert imread("schedule.png").shape[1] > 500
    assert not Path("runs").exists()
    assert "42" in capsys.readouterr().out
    (plain, names), (head, only) = cli.drawn.curves().items()
    assert only == ["head.weight"]
    assert len(names) == len(list(cli.model.net.parameters())) - 1
    main(["fit", *SMALL, "--test=false", "--trainer.log_every_n_steps=1"])
    rows = csv.DictReader(Path("runs/digits/version_0/metrics.csv").read_text().splitlines())
    logged = [float(row["lr-AdamW/pg1"]) for row in rows if row["lr-AdamW/pg1"]]
    assert list(plain) == pytest.approx(logged)
    assert [rate * 2.5 for rate in plain] == pytest.approx(head)


def test_a_least_number_of_epochs_is_not_trained() -> None:
    cli = main(["schedule", *SMALL, "--trainer.min_epochs=2"])
    assert cli.trainer.current_epoch == 0


def test_a_plateau_schedule_is_said_to_be_hidden() -> None:
    plateau = '{"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau"}'
    cli = main(["schedule", *SMALL, f"--model.schedule={plateau}", "--output=p.svg"])
    assert cli.drawn.hidden
    (rates,) = cli.drawn.curves()
    assert rates[10:] == pytest.approx([4e-3] * 32)  # the warm-up is over


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--output=x.foo"], "cannot write x.foo: Format 'foo' is not supported"),
        (["--output=absent/x.png"], "cannot write absent/x.png"),
        (["--trainer.max_epochs=-1"], "has no end"),
        (["--images=x.png"], "--images goes with predict, not with schedule"),
    ],
)
def test_mistakes_are_answered_in_one_line(typed: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["schedule", *SMALL, *typed])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_schedule_of_a_run_is_drawn_whole_and_the_run_stays_as_it_is() -> None:
    main(["fit", *SMALL, "--test=false"])
    run = Path("runs/digits/version_0")
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    cli = main(["schedule", f"--run={run}", "--trainer.max_epochs=4"])
    (rates,) = cli.drawn.curves()
    assert len(rates) == 84
    assert rates[0] == pytest.approx(4e-3 / 11)
    assert rates[-1] > 0
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()} == before


def test_a_schedule_that_counts_epochs_is_stepped_after_each_epoch() -> None:
    Path("halved.py").write_text(
        "from src.tasks import Classifier\n"
        "import torch\n"
        "class Halved(Classifier):\n"
        "    def configure_optimizers(self):\n"
        "        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)\n"
        "        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]\n"
    )
    sys.path.insert(0, str(Path.cwd()))
    try:
        cli = main(["schedule", "--config=configs/digits.yaml", "--model=halved.Halved", "--trainer.max_epochs=3"])
    finally:
        sys.path.pop(0)
    (rates,) = cli.drawn.curves()
    assert list(rates) == [1.0] * 21 + [0.5] * 21 + [0.25] * 21
