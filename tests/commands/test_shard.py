"""shard: restarts, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.cli import main
from src.data.loading import write_shards
from tests.conftest import refused

SHARD = ["shard", "--config=configs/folder.yaml", "--data.size=4", "--output=out", "--shard_mb=0.005"]


def draw(count: int = 60) -> None:
    for i in range(count):
        file = Path(f"data/train/{'ab'[i % 2]}/{i}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(256, size=(9, 9), dtype=np.uint8)).save(file)


def written() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path("out").iterdir()}


def test_an_interrupted_command_keeps_what_it_has_written(monkeypatch: pytest.MonkeyPatch) -> None:
    draw()
    main(SHARD)
    expected = written()
    for file in Path("out").glob("train-*.zip"):
        if file.name.startswith("train-00001"):
            file.write_bytes(file.read_bytes()[:-9])  # as no kill leaves it
        elif file.name.startswith("train-00002"):
            file.unlink()
    Path("out/manifest.json").rename("out/train-00001-0.zip.123")
    read: list[str] = []
    original = write_shards.ImageSet.read
    monkeypatch.setattr(
        write_shards.ImageSet, "read", lambda self, i: (read.append(self.names[i]), original(self, i))[1]
    )
    main(SHARD)
    assert written() == expected
    assert 0 < len(read) < 40


def test_shards_are_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    draw()
    main(SHARD)
    assert "out already has shards: choose another folder with --output" in refused(capsys, *SHARD)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shard_mb=0.001"], "--shard_mb must be at least 0.004096, got 0.001"),
        (["--output=data/train/a/0.png"], "cannot write data/train/a/0.png/"),
        (["--config=configs/diabetes.yaml"], "shard needs images of a src.data.DataModule, got Diabetes"),
    ],
)
def test_what_cannot_be_written_is_refused(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    draw(20)
    base = ["shard"] if "--config" in args[0] else SHARD
    assert message in refused(capsys, *base, *args)


def test_a_damaged_picture_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    draw(20)
    Path("data/train/a/0.png").write_text("no picture", encoding="utf-8")
    assert "cannot decode data/train/a/0.png" in refused(capsys, *SHARD)
    assert not Path("out/manifest.json").exists()
