"""The picture of a schedule shows the learning rates that training then has."""

import csv
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
    assert only == ["net.head.weight"]
    assert len(names) == len(list(cli.model.net.parameters())) - 1
    main(["fit", *SMALL, "--test=false", "--trainer.log_every_n_steps=1"])
    rows = csv.DictReader(Path("runs/digits/version_0/metrics.csv").read_text().splitlines())
    logged = [float(row["lr-AdamW/pg1"]) for row in rows if row["lr-AdamW/pg1"]]
    assert list(plain) == pytest.approx(logged)
    assert [rate * 2.5 for rate in plain] == pytest.approx(head)


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
