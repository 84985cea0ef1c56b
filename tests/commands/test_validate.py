"""validate: metrics of the best checkpoint on the validation split."""

import json
from pathlib import Path

import pytest

from src.cli import main
from src.data import Digits


def test_validate_prints_the_metrics_of_the_best_checkpoint(
    capsys: pytest.CaptureFixture[str], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[bool] = []
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, train: loaded.append(train) or load(self, train))
    main(["validate", f"--run={trained}"])
    out = capsys.readouterr().out
    results = json.loads((trained / "results.json").read_text(encoding="utf-8"))
    assert out.split()[:2] == ["metric", "val"]
    for name in ("loss", "accuracy", "f1"):
        assert f"{results[f'val/{name}']:.4f}" in out
    assert f"checkpoint  {trained}/checkpoints/best.ckpt" in out
    assert loaded == [True]  # the test split is not touched
