"""test: metrics of the best checkpoint on the test split."""

import json
from pathlib import Path

import pytest
from PIL import Image

from src.cli import main
from tests.conftest import SMALL, refused


def test_test_prints_the_metrics_of_the_best_checkpoint(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    x = main(["test", f"--run={trained}"])
    out = capsys.readouterr().out
    results = json.loads((trained / "results.json").read_text(encoding="utf-8"))
    assert out.split()[:2] == ["metric", "test"]
    for name in ("loss", "accuracy", "f1", "f1/7", "recall/0"):
        assert f"{results[f'test/{name}']:.4f}" in out
        assert float(x.trainer.callback_metrics[f"test/{name}"]) == pytest.approx(results[f"test/{name}"])
    assert f"checkpoint  {trained}/checkpoints/best.ckpt" in out
    assert before == {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}


def test_images_of_other_classes_are_not_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    for root, classes in (("images", "ab"), ("others", "bc")):  # as many classes
        for name in (f"{split}/{letter}" for split in ("train", "test") for letter in classes):
            Path(root, name).mkdir(parents=True)
            for i in range(12):
                Image.new("L", (8, 8), i).save(Path(root, name, f"{i}.png"))
    settings = ["--data=src.data.ImageFolder", "--data.size=8", "--data.batch_size=8", "--data.folds=4"]
    settings += ["--model.num_classes=2", "--model.net.image_shape=[3,8,8]", "--trainer.max_epochs=1"]
    main(["fit", *SMALL, *settings, "--data.root=images"])
    main(["test", "--run=runs/digits/version_0"])
    error = refused(capsys, "test", "--run=runs/digits/version_0", "--data.root=others")
    assert "others must have the checkpoint's classes; not in both: a, c" in error
