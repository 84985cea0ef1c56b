"""Modules that learn from images before training see those of the training part, normalised."""

import pytest
import torch
from torch import Tensor, nn

from src.cli import main
from src.data import Digits
from src.nets import WhitenedCNN
from src.tasks.first_look import show_images

FIT = [
    "fit",
    "--config=configs/digits.yaml",
    '--model.net={"class_path": "src.nets.WhitenedCNN", "init_args": {"in_channels": 1, "widths": [4, 4]}}',
    "--trainer.max_epochs=1",
    "--test=false",
]


def test_filters_come_from_normalised_training_images_and_stay() -> None:
    cli = main(FIT)
    data, net = cli.datamodule, cli.model.net
    fresh = WhitenedCNN(10, in_channels=1, widths=(4, 4))
    fresh.whitening.see(data.normalize(data.parts["train"].images[data.parts["train"].index]))
    torch.testing.assert_close(net.whitening.weight, fresh.whitening.weight)
    tested = main(["test", "--run=runs/digits/version_0"]).model.net
    assert tested.whitening.weight.equal(net.whitening.weight)


def test_images_are_spread_over_the_training_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.tasks.first_look.MOST", 64 * 100)
    data = Digits()
    data.setup("fit")
    net = Seeing(10)
    show_images(net, data)
    train = data.parts["train"]
    every = data.normalize(train.images[train.index[[i * len(train) // 100 for i in range(100)]]])
    assert net.images.equal(every)


class Seeing(nn.Linear):
    """Keeps what it is shown."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__(64, num_outputs)

    def see(self, images: Tensor) -> None:
        self.images, self.seen = images, images.shape

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flatten(1))


def test_any_module_with_see_is_shown_images() -> None:
    task = main([FIT[0], FIT[1], "--model.net=tests.tasks.test_first_look.Seeing", *FIT[3:]]).model
    assert task.net.seen == (1293, 1, 8, 8)


def test_without_a_training_part_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    boring = "--data=lightning.pytorch.demos.boring_classes.BoringDataModule"
    net = "--model.net=tests.tasks.test_first_look.Seeing"
    optimizer = ["--model.optimizer=torch.optim.SGD", "--trainer.max_epochs=1"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", boring, "--model=src.tasks.Classifier", "--model.num_classes=10", net, *optimizer])
    assert stop.value.code == 2
    assert "Seeing needs data of a class derived from src.data.DataModule" in capsys.readouterr().err
