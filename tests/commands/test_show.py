"""show: the picture holds what training sees."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from src.cli import main
from tests.conftest import FIT

SHOW = ["show", "--config=configs/digits.yaml"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pixels of every image, in the order of drawing: down the first column, then down the second one."""
    found: list[Any] = []
    monkeypatch.setattr(Axes, "imshow", lambda _, pixels: found.append(np.asarray(pixels)))
    return found


def test_show_draws_images_unchanged_and_then_augmented(drawn: list[Any]) -> None:
    x = main([*SHOW, '--data.augment=[{"class_path": "src.data.AlternatingFlip"}]'])
    assert imread("show.png").shape[1] > 800
    assert not Path("runs").exists()
    assert len(drawn) == 8 * 9
    columns = [np.stack(drawn[8 * i : 8 * i + 8]) for i in range(9)]
    pixels = {image.numpy().tobytes() for image in x.data.splits["train"].images}
    assert all((image[..., 0] * 255).round().astype(np.uint8).tobytes() in pixels for image in columns[0])
    for epoch, column in enumerate(columns[1:]):
        kept, mirrored = (
            np.isclose(column, other, atol=1e-5).all((1, 2, 3)) for other in (columns[0], columns[0][:, :, ::-1])
        )
        assert (kept | mirrored).all()
        if epoch:
            assert np.allclose(column, columns[epoch][:, :, ::-1], atol=1e-5)


def test_mixed_images_are_labeled_with_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    monkeypatch.setattr(Axes, "set_xlabel", lambda _, label, **__: labels.append(label))
    main([*SHOW, "--config=configs/presets/mixup.yaml", "--output=mixed.png"])
    assert Path("mixed.png").is_file()
    assert all(label.isdigit() for label in labels[:8])
    assert any(label.count("%") == 2 for label in labels[8:])


def test_show_draws_the_images_of_a_run_without_a_checkpoint() -> None:
    main([*FIT, "--trainer.max_epochs=1", "--trainer.enable_checkpointing=false"])
    main(["show", "--run=runs/digits/version_0"])
    assert Path("show.png").is_file()
