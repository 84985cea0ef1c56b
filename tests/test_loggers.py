"""metrics.csv of a run that goes on."""

import csv
from pathlib import Path

import pytest

from src.loggers import ContinuedCSVLogger

pytestmark = pytest.mark.filterwarnings("ignore:Experiment logs directory")


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
