"""Sentences on learning curves: said where their rule holds, not where it does not, with the figures of the curve."""

from pathlib import Path

import numpy as np
import pytest

from src.analysis.report.curves import noise, read_curves, sentences

EPOCHS = list(range(1, 21))


def said(val: object, train: object) -> list[str]:
    curves = {"val/loss": (EPOCHS, list(map(float, val))), "train/loss": (EPOCHS, list(map(float, train)))}
    return [text for text, _ in sentences(curves)]


def falling(noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Fall to a plateau."""
    draw = np.random.default_rng(seed)
    return 0.2 + 2 * np.exp(-np.array(EPOCHS) / 2) + noise * draw.normal(size=len(EPOCHS))


def test_overfitting_is_told_with_its_epoch() -> None:
    val = falling()
    val[8:] += 0.05 * np.arange(12)
    (text,) = said(val, falling())
    assert text.startswith(
        f"Overfits from epoch {1 + int(val.argmin())} on: there val/loss was lowest, {val.min():.4g};"
    )


def test_a_plateau_says_nothing() -> None:
    assert said(falling(), falling()) == []


@pytest.mark.parametrize("seed", range(20))
def test_noise_on_a_plateau_is_no_overfitting(seed: int) -> None:
    assert not [text for text in said(falling(0.03, seed), falling()) if "Overfits" in text]


def test_a_loss_that_rises_in_both_is_no_overfitting() -> None:
    rising = falling()
    rising[10:] += 0.03 * np.arange(10)
    assert not [text for text in said(rising, rising) if "Overfits" in text]


def test_a_loss_that_still_falls_is_told() -> None:
    line = np.linspace(2, 0.5, 20)
    (text,) = said(line, line)
    assert text.startswith("Still falling: val/loss is")
    assert f"{line[-4:].mean():.4g} over the last 4 epochs" in text


def test_a_jump_of_the_training_loss_is_told_with_its_epoch() -> None:
    train = falling()
    train[11] = 1.5
    (text,) = said(falling(), train)
    assert "rate may be too high" in text
    assert "in epoch 12" in text


def test_a_loss_that_never_falls_is_told() -> None:
    (text,) = said([2.3] * 20, np.full(20, 2.3) - 0.001 * np.arange(20))
    assert text.startswith("Hardly learns")


def test_short_runs_and_missing_losses_say_nothing() -> None:
    assert sentences({}) == []
    assert sentences({"val/loss": ([1, 2], [1.0, 2.0]), "train/loss": ([1, 2], [1.0, 0.5])}) == []


def test_noise_is_the_deviation_from_a_trend() -> None:
    draw = np.random.default_rng(0).normal(size=4000)
    assert noise((0.3 * draw + np.arange(4000)).tolist()) == pytest.approx(0.3, rel=0.05)
    assert noise([1.0]) == 0


def test_curves_have_the_last_value_of_each_epoch(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text(
        "epoch,lr-SGD,step,train/loss,val/loss\n,0.1,9,,\n0,,9,,1.5\n0,,9,2.5,\n1,,19,,1.25\n1,,19,,1.0\n",
        encoding="utf-8",
    )
    found = read_curves(file)
    assert found == {"lr-SGD": ([10], [0.1]), "val/loss": ([1, 2], [1.5, 1.0]), "train/loss": ([1], [2.5])}
    assert read_curves(tmp_path / "none.csv") == {}


def test_a_loss_that_becomes_nan_is_told_and_nothing_else() -> None:
    train = [2.0, 1.0, 0.5, *[float("nan")] * 17]
    assert said(falling(), train) == ["Diverges: from epoch 4 on, train/loss is not finite."]


def test_losses_below_0_are_no_alarm() -> None:
    line = -5 - np.linspace(0, 0.001, 20)
    assert said(line, line) == []
    assert not [text for text in said(-falling(), -falling()) if "Overfits" in text or "rate" in text]


def test_epochs_without_validation_are_compared_by_their_number() -> None:
    epochs = list(range(2, 41, 2))
    val = falling()
    val[8:] += 0.05 * np.arange(12)
    curves = {"val/loss": (epochs, val.tolist()), "train/loss": (list(range(1, 41)), np.linspace(2, 0.1, 40).tolist())}
    ((text, _),) = sentences(curves)
    assert text.startswith(f"Overfits from epoch {epochs[int(val.argmin())]} on")
    assert f"from {np.linspace(2, 0.1, 40)[epochs[int(val.argmin())] - 1]:.4g} to 0.1" in text


def test_a_line_that_is_being_written_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,9,1.5\n1,19,0.5\n2,29,1e\n3,3", encoding="utf-8")
    assert read_curves(tmp_path / "metrics.csv") == {"train/loss": ([1, 2], [1.5, 0.5])}
