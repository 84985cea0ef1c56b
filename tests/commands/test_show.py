"""The sheet shows what training sees."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from src import show
from src.cli import main

SHOW = ["show", "--config=configs/digits.yaml"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pixels of each picture, in the order of drawing: down the first column, then down the second one."""
    found: list[Any] = []
    monkeypatch.setattr(Axes, "imshow", lambda _, pixels: found.append(np.asarray(pixels)))
    return found


def test_it_shows_the_images_as_they_are_and_as_they_are_augmented(drawn: list[Any]) -> None:
    cli = main([*SHOW, '--data.augment=[{"class_path": "src.data.AlternatingFlip"}]'])
    assert imread("show.png").shape[1] > 800
    assert not Path("runs").exists()
    assert len(drawn) == 8 * 9
    columns = [np.stack(drawn[8 * i : 8 * i + 8]) for i in range(9)]
    pixels = {image.numpy().tobytes() for image in cli.datamodule.parts["train"].images}
    assert all((image[..., 0] * 255).round().astype(np.uint8).tobytes() in pixels for image in columns[0])
    for epoch, column in enumerate(columns[1:]):
        kept, mirrored = (
            np.isclose(column, other, atol=1e-5).all((1, 2, 3)) for other in (columns[0], columns[0][:, :, ::-1])
        )
        assert (kept | mirrored).all()
        if epoch:
            assert np.allclose(column, columns[epoch][:, :, ::-1], atol=1e-5)


def test_mixed_images_have_their_shares_below_them(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    monkeypatch.setattr(Axes, "set_xlabel", lambda _, label, **__: labels.append(label))
    main([*SHOW, "--config=configs/presets/mixup.yaml", "--output=mixed.png"])
    assert Path("mixed.png").is_file()
    assert all(label.isdigit() for label in labels[:8])
    assert any(label.count("%") == 2 for label in labels[8:])


def test_other_data_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(show, "DataModule", type(None))
    with pytest.raises(SystemExit) as stop:
        main(SHOW)
    assert stop.value.code == 2
    assert "show needs data of a class derived from src.data.DataModule, got Digits" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_is_shown() -> None:
    main(["fit", *SHOW[1:], "--trainer.max_epochs=1", "--trainer.enable_checkpointing=false", "--test=false"])
    main(["show", "--run=runs/digits/version_0"])
    assert Path("show.png").is_file()
