"""metrics.csv of a run that goes on; loggers that are extras."""

import csv
import json
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from src.cli import main
from src.loggers import ContinuedCSVLogger

pytestmark = pytest.mark.filterwarnings("ignore:Experiment logs directory")

FIT = ["fit", "--config=configs/digits.yaml", "--model.net.width=2", "--trainer.max_epochs=1"]


def steps() -> list[str]:
    return [row["step"] for row in csv.DictReader(Path("metrics.csv").read_text().splitlines())]


def written() -> None:
    logger = ContinuedCSVLogger(Path(), 0)
    for step in range(4):
        logger.log_metrics({"loss": 1 / (step + 1)}, step)
    logger.save()


def test_rows_before_the_step_are_kept_and_on_disk_at_once() -> None:
    written()
    logger = ContinuedCSVLogger(Path(), 2)
    _ = logger.experiment
    assert steps() == ["0", "1"]
    logger.log_metrics({"loss": 0.1, "accuracy": 0.9}, 2)
    logger.save()
    assert steps() == ["0", "1", "2"]
    assert not Path("metrics.csv.kept").exists()


def test_rows_are_not_lost_when_their_rewriting_is_cut_off() -> None:
    written()
    Path("metrics.csv").rename("metrics.csv.kept")
    Path("metrics.csv").write_text("step,loss\n")
    _ = ContinuedCSVLogger(Path(), 4).experiment
    assert steps() == ["0", "1", "2", "3"]


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_that_is_not_installed_is_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*FIT, "--config=configs/presets/wandb.yaml"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: wandb is not installed: make extras installs it\n"
    assert not Path("runs").exists()


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb: make extras")
@pytest.mark.filterwarnings("ignore")
def test_wandb_has_the_metrics_too_and_the_run_folder_stays_first() -> None:
    import wandb

    main([*FIT, "--config=configs/presets/wandb.yaml"])
    wandb.finish()
    assert "test/accuracy" in Path("runs/digits/version_0/metrics.csv").read_text()
    (summary,) = Path("runs/wandb").glob("offline-run-*/*.wandb")
    assert b"val/accuracy" in summary.read_bytes()


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs mlflow: make extras")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_metrics_too_and_the_run_folder_stays_first() -> None:
    main([*FIT, "--config=configs/presets/mlflow.yaml"])
    results = json.loads(Path("runs/digits/version_0/results.json").read_text())
    with closing(sqlite3.connect("runs/mlflow.db")) as database:
        found = dict(database.execute("select key, value from latest_metrics"))
    for name in ("val/accuracy", "test/accuracy"):
        assert found[name] == pytest.approx(results[name])
