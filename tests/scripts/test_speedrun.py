"""A speedrun times only the training, and reports a confidence interval over seeds."""

import json
import sys
from pathlib import Path

import pytest

from scripts.speedrun import main, summary


def test_the_summary_has_a_confidence_interval() -> None:
    runs = [{"seconds": 2.0, "accuracy": 0.93}, {"seconds": 3.0, "accuracy": 0.95}]
    assert summary(runs) == "2 runs: accuracy 94.00 ± 12.71 % (95 %), 2.50 s of training"
    assert summary(runs[:1]) == "1 runs: accuracy 93.00 % (95 %), 2.00 s of training"


@pytest.mark.heavy
def test_each_seed_is_trained_and_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    args = ["--config=configs/digits.yaml", "--seeds=2", f"--json={file}", "--trainer.max_epochs=2"]
    monkeypatch.setattr(sys, "argv", ["speedrun", "--root=data", *args, "--best.monitor=train/loss"])
    main()
    runs = json.loads(file.read_text(encoding="utf-8"))
    assert [run["seed"] for run in runs] == [0, 1]
    assert all(run["seconds"] > 0 and run["accuracy"] > 0.3 for run in runs)
    assert runs[0]["accuracy"] != runs[1]["accuracy"]
