"""Pictures are drawn of what the validation computes, for every task and any module, and change nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from src import UserError
from src.analysis.training.predictions import Figures, Predictions
from src.callbacks import Pictures
from src.cli import main
from tests.conftest import SMALL, PlainModule, same, weights

ON = "--trainer.callbacks+=src.callbacks.Pictures"
RUN = Path("runs/digits/version_0")
CLASSES = {"filters", "confusion", "classes", "calibration", "samples", "embedding"}


def kinds(folder: Path, prefix: str) -> set[str]:
    return {file.stem.removeprefix(f"{prefix}_") for file in folder.glob(f"pictures/{prefix}_*.png")}


def test_a_run_draws_its_best_checkpoint_and_every_second_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Predictions] = []
    figures = Predictions.figures

    def first(self: Predictions) -> Figures:
        given.append(self)
        yield next(figures(self))

    monkeypatch.setattr(Predictions, "figures", first)
    x = main(["fit", *SMALL, ON, "--trainer.callbacks.every_n_epochs=2", "--test=false"])
    assert kinds(RUN, "epoch_002") == kinds(RUN, "best") == {"filters", "confusion"}
    assert not kinds(RUN, "epoch_001") | kinds(RUN, "epoch_003")
    assert "evaluate" not in vars(x.task)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in x.task.modules())
    samples = x.data.splits["val"]
    index, pixels, targets = samples[torch.arange(len(samples))]
    assert (given[-1].targets == targets.numpy()).all()
    assert all((given[-1].images[i] == pixels[i, 0].numpy()).all() for i in range(len(index)))
    with torch.no_grad():
        expected = x.task.eval()(x.data.batch_transform("val")(pixels, targets, index, 0)[0]).softmax(1)
    assert given[-1].predicted == pytest.approx(expected.numpy(), abs=1e-6)
    events = EventAccumulator(str(RUN))
    events.Reload()
    assert set(events.Tags()["images"]) == {"pictures/filters", "pictures/confusion"}
    assert len(events.Images("pictures/confusion")) == 2
    assert any("MLP[net]" in node.name for node in events.Graph().node)
    main(["fit", *SMALL, "--test=false"])
    assert same(weights(RUN), weights(RUN.with_name("version_1")))


@pytest.mark.heavy
def test_an_earlier_run_is_drawn_by_validate(trained: Path) -> None:
    main(["validate", f"--run={trained}", ON])
    assert kinds(trained, "best") == CLASSES
    with Image.open(trained / "pictures/best_confusion.png") as picture:
        assert min(picture.size) > 400


@pytest.mark.parametrize(
    ("config", "args", "expected"),
    [
        ("digits", ["--model.net.width=4"], CLASSES | {"maps"}),
        ("digits_rotation", ["--model.net.width=4"], {"filters", "maps", "residuals", "samples", "embedding"}),
        ("digits_masks", ["--model.net.width=4"], {"filters", "maps", "classes", "overlays"}),
        ("digits_retrieval", ["--model.net.width=4"], {"filters", "maps", "neighbors", "embedding"}),
        ("digits_multilabel", ["--model.net.width=4"], {"filters", "maps", "classes", "calibration", "samples"}),
        ("digits_autoencoder", [], {"filters"}),
        ("diabetes", [], {"residuals", "embedding"}),
    ],
)
@pytest.mark.heavy
def test_every_task_has_its_pictures(config: str, args: list[str], expected: set[str]) -> None:
    limits = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--test=false"]
    main(["fit", f"--config=configs/{config}.yaml", *args, *limits, ON])
    assert kinds(Path("runs") / config / "version_0", "best") == expected


class Odd(PlainModule):
    """Has an ``evaluate`` that means something else."""

    def evaluate(self, images: Tensor, *, scale: float) -> float:
        return scale * float(images.mean())

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch[0], scale=2.0)
        super().validation_step(batch, batch_idx)


@pytest.mark.heavy
def test_a_foreign_module_is_drawn_as_far_as_possible() -> None:
    data = ["--config=configs/digits.yaml", f"--model={__name__}.Odd", "--trainer.max_epochs=1", "--test=false"]
    main(["fit", *data, "--model.lr=0.1", ON, "--trainer.callbacks+=src.callbacks.Monitor", "--trust"])
    assert kinds(RUN, "best") == {"filters"}


@pytest.mark.heavy
def test_many_samples_are_spread_over_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.callbacks.seen.SAMPLES", 40)
    monkeypatch.setattr("src.callbacks.seen.PIXELS", 10 * 3 * 64)
    given: list[Predictions] = []
    monkeypatch.setattr(Predictions, "figures", lambda self: given.append(self) or iter(()))
    x = main(["fit", *SMALL, ON, "--trainer.max_epochs=1", "--data.batch_size=32", "--test=false"])
    targets = x.data.splits["val"][torch.arange(144)][2]
    assert (given[0].targets == targets[::4].numpy()).all()
    assert [*given[0].images] == [*range(0, 36, 4)]


@pytest.mark.heavy
def test_a_picture_that_cannot_be_drawn_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("no\nclasses")

    monkeypatch.setattr("src.analysis.training.pictures.draw_recall", fail)
    with pytest.warns(UserWarning, match="Pictures cannot draw classes: no classes"):
        main(["fit", *SMALL, ON, "--trainer.max_epochs=1", "--test=false"])
    assert kinds(RUN, "best") == CLASSES - {"classes"}


def test_invalid_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="every_n_epochs must be at least 0, got -1"):
        Pictures(every_n_epochs=-1)
    with pytest.raises(SystemExit):
        main(["fit", *SMALL, ON, "--trainer.callbacks.layers=conv"])
    assert "layers 'conv' matches no layer; closest: net" in capsys.readouterr().err
