"""metrics.csv of a resumed run, loggers that are extras, and the provenance of results."""

import csv
import json
import sqlite3
import sys
from contextlib import closing
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest

from src.cli import main
from src.engine.progress import ResumedCSVLogger
from src.runs.summary import provenance
from tests.conftest import FIT, ROOT, refused

SHORT = [*FIT, "--trainer.max_epochs=1"]


def steps() -> list[str]:
    return [row["step"] for row in csv.DictReader(Path("metrics.csv").read_text(encoding="utf-8").splitlines())]


def write_steps() -> None:
    logger = ResumedCSVLogger(Path(), 0)
    for step in range(4):
        logger.log_metrics({"loss": 1 / (step + 1)}, step)
    logger.save()


def test_rows_before_the_resumed_step_are_kept_on_disk() -> None:
    write_steps()
    logger = ResumedCSVLogger(Path(), 2)
    _ = logger.experiment
    assert steps() == ["0", "1"]
    logger.log_metrics({"loss": 0.1, "accuracy": 0.9}, 2)
    logger.save()
    assert steps() == ["0", "1", "2"]
    assert not Path("metrics.csv.kept").exists()


def test_rows_survive_an_interrupted_rewrite() -> None:
    write_steps()
    Path("metrics.csv").rename("metrics.csv.kept")
    Path("metrics.csv").write_text("step,loss\n", encoding="utf-8")
    _ = ResumedCSVLogger(Path(), 4).experiment
    assert steps() == ["0", "1", "2", "3"]


def test_provenance_identifies_command_code_data_and_machine() -> None:
    config = Path("config.yaml")
    config.write_text("seed: 1\n", encoding="utf-8")
    first = provenance(config, "abc", "7")
    config.write_text("seed: 2\n", encoding="utf-8")
    second = provenance(config, None, "")
    assert (first["split"], first["job"], second["split"], second["job"]) == ("abc", "7", None, "")
    assert first["command"] == sys.orig_argv
    assert first["config_sha256"] != second["config_sha256"] == sha256(config.read_bytes()).hexdigest()
    assert first["lock_sha256"] == sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    assert set(first) == set(second) >= {"time", "git_commit", "git_dirty", "versions", "hardware"}
    assert {"python", "torch", "lightning"} <= set(first["versions"])
    assert set(first["hardware"]) == {"machine", "cpu", "cores", "gpus"}
    assert json.loads(json.dumps(first)) == first


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_that_is_not_installed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *SHORT, "--config=configs/presets/wandb.yaml")
    assert error == "error: wandb is not installed: run make extras\n"
    assert not Path("runs").exists()


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb: make extras")
@pytest.mark.filterwarnings("ignore")
def test_wandb_gets_the_metrics_and_the_run_folder_too() -> None:
    import wandb

    main([*SHORT, "--test=true", "--config=configs/presets/wandb.yaml"])
    wandb.finish()
    assert "test/accuracy" in Path("runs/digits/version_0/metrics.csv").read_text(encoding="utf-8")
    (summary,) = Path("runs/wandb").glob("offline-run-*/*.wandb")
    assert b"val/accuracy" in summary.read_bytes()


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs mlflow: make extras")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_the_metrics_and_the_run_folder_too() -> None:
    main([*SHORT, "--test=true", "--config=configs/presets/mlflow.yaml"])
    results = json.loads(Path("runs/digits/version_0/results.json").read_text(encoding="utf-8"))
    with closing(sqlite3.connect("runs/mlflow.db")) as database:
        found = dict(database.execute("select key, value from latest_metrics"))
    for name in ("val/accuracy", "test/accuracy"):
        assert found[name] == pytest.approx(results[name])
