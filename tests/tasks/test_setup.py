"""Before training, a task is checked against its data, and nets are initialized from training images."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn import metrics
from sklearn.dummy import DummyClassifier, DummyRegressor
from torch import Tensor, nn

from src import UserError
from src.cli import main
from src.data import Digits, MixUp, ProgressiveResize
from src.nets import SmallCNN, WhitenedCNN
from src.tasks import setup
from src.tasks.setup import check_loss, check_net, check_num_classes, init_from_data
from tests.conftest import FIT, refused, same, weights

CNN = '{"class_path": "src.nets.WhitenedCNN", "init_args": {"in_channels": 1, "widths": [4, 4]}}'
SHORT = [*FIT[:2], "--trainer.max_epochs=1", "--test=false"]
NO_IMAGES = "--data=lightning.pytorch.demos.boring_classes.BoringDataModule"


class Remembers(nn.Linear):
    """Remember the images it was initialized from."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__(64, num_outputs)

    def init_from_data(self, images: Tensor) -> None:
        self.images = images

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flatten(1))


def digits(**settings: Any) -> Digits:
    data = Digits(**settings)
    data.setup("fit")
    return data


def test_filters_come_from_normalized_training_images_and_stay() -> None:
    x = main([*SHORT, f"--model.net={CNN}"])
    train, fresh = x.data.splits["train"], WhitenedCNN(10, in_channels=1, widths=(4, 4))
    fresh.whitening.init_from_data(x.data.normalize(train.images[train.index]))
    torch.testing.assert_close(x.task.net.whitening.weight, fresh.whitening.weight)
    tested = main(["test", "--run=runs/digits/version_0"]).task.net
    assert tested.whitening.weight.equal(x.task.net.whitening.weight)


def test_images_are_spread_over_the_training_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "MAX_PIXELS", 64 * 100)
    data, net = digits(), Remembers(10)
    init_from_data(net, data)
    train = data.splits["train"]
    spread = data.normalize(train.images[train.index[[i * len(train) // 100 for i in range(100)]]])
    assert net.images.equal(spread)


def test_any_module_with_init_from_data_gets_images() -> None:
    task = main([*SHORT, f"--model.net={__name__}.Remembers"]).task
    assert task.net.images.shape == (1293, 1, 8, 8)


def test_without_a_training_split_the_net_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model=src.tasks.Classifier", "--model.num_classes=10", f"--model.net={__name__}.Remembers"]
    optimizer = ["--model.optimizer=torch.optim.SGD", "--trainer.max_epochs=1"]
    error = refused(capsys, "fit", NO_IMAGES, *model, *optimizer)
    assert error == "error: Remembers needs a data module derived from src.data.DataModule\n"


def test_the_number_of_classes_is_checked_only_if_the_data_has_names() -> None:
    data = digits()
    check_num_classes(10, data)
    with pytest.raises(UserError, match=r"^num_classes must be 10, .* \(0, 1, 2, 3, 4, \.\.\.\), got 9$"):
        check_num_classes(9, data)
    data.class_names = None
    check_num_classes(9, data)
    check_num_classes(9, SimpleNamespace())


@pytest.mark.parametrize("training", [True, False])
def test_a_net_that_does_not_accept_the_images_is_refused(training: bool) -> None:
    data, net = digits(), nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(63, 10)).train(training)
    with pytest.raises(UserError, match=r"^the net does not accept the data's images, \(C, H, W\) = \(1, 8, 8\): "):
        check_net(net, data, 10)
    assert net[1].training == training
    check_net(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data, 10)
    check_net(net, SimpleNamespace(), 10)  # unknown images


def test_a_net_that_does_not_accept_smaller_images_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    check_net(net, digits(), 10)
    with pytest.raises(UserError, match=r"= \(1, 4, 4\): "):
        check_net(net, digits(augment=[ProgressiveResize([4])]), 10)


def test_a_lazy_net_is_left_to_the_first_batch() -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    check_net(net, digits(), 10)
    assert isinstance(net[1].weight, nn.UninitializedParameter)


def not_scalar(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, targets, reduction="none")


def constant(logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG001
    return torch.zeros(())


def number(logits: Tensor, targets: Tensor) -> float:  # noqa: ARG001
    return 0.0


@pytest.mark.parametrize(
    ("loss", "mix", "error"),
    [
        (nn.CrossEntropyLoss(), MixUp(), ""),
        (nn.MultiMarginLoss(), None, ""),
        (nn.MultiMarginLoss(), MixUp(), r"does not accept logits \(N, 3\) and the soft targets \(N, K\) of MixUp \("),
        (nn.MSELoss(), None, r"does not accept logits \(N, 3\) and classes \(N,\) \(.*\); choose another, such as"),
        (not_scalar, None, r"must return one number that depends on the outputs, got shape \(2,\); reduce it$"),
        (constant, None, r"must return one number that depends on the outputs, got shape \(\); reduce it$"),
        (number, None, r"must return one number that depends on the outputs, got float; reduce it$"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_does_not_accept_the_targets_is_refused(loss: Any, mix: Any, error: str) -> None:
    if not error:
        check_loss(loss, 3, mix)
        return
    with pytest.raises(UserError, match=f"^the loss {error}"):
        check_loss(loss, 3, mix)


def test_a_new_run_starts_from_the_weights_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SHORT, "--name=first", "--model.net.width=4"])
    start = ["--model.weights=runs/first/version_0", "--model.init=src.nets.Init", "--model.optimizer.lr=0"]
    x = main([*SHORT, "--name=second", "--model.net.width=4", *start])
    assert "note  38 of 38 tensors loaded from runs/first/version_0\n" in capsys.readouterr().out
    expected = weights("runs/first/version_0", "best")
    assert all(each.equal(expected[f"net.{name}"]) for name, each in x.task.net.named_parameters())


def test_a_run_needs_its_weights_only_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(SmallCNN(7, width=4).state_dict(), "net.pt")
    fit = [*FIT, "--model.weights=net.pt", "--model.schedule=null"]
    main(fit)
    assert "36 of 38 tensors" in capsys.readouterr().out
    main([*fit, "--trainer.max_steps=30"])
    Path("net.pt").unlink()
    whole, resumed = (Path(f"runs/digits/version_{i}") for i in range(2))
    x = main(["fit", f"--run={resumed}", "--trainer.max_steps=-1"])
    assert x.task.note == ""
    assert same(weights(whole), weights(resumed))
    for command in ("test", "predict"):
        main([command, f"--run={whole}"])
    before = {*Path("runs/digits").iterdir()}
    assert "weights net.pt does not exist: expected a file" in refused(capsys, *fit)
    assert {*Path("runs/digits").iterdir()} == before


def test_weights_of_which_nothing_fits_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a.weight": torch.ones(3, 3)}, "net.pt")
    error = refused(capsys, *FIT, "--model.weights=net.pt")
    assert error.startswith(
        "error: weights net.pt: nothing fits this net (first names: a.weight and features.0.0.weight)"
    )
    assert not Path("runs").exists()


def test_the_reference_is_what_a_constant_prediction_reaches() -> None:
    for name in ("digits_rotation", "digits", "digits_multilabel", "digits_masks"):
        x = main(["fit", f"--config=configs/{name}.yaml", "--trainer.limit_train_batches=1", "--trainer.max_epochs=1"])
        results = json.loads((x.run.path / "results.json").read_text(encoding="utf-8"))
        found = {key.split("/")[1]: value for key, value in results.items() if key.startswith("reference/")}
        splits = [x.data.splits[split] for split in ("train", "test")]
        train, test = (split.targets[split.index].numpy() for split in splits)
        if name == "digits_rotation":
            guess = DummyRegressor().fit(train[:, None], train).predict(test[:, None])
            assert found["mae"] == pytest.approx(metrics.mean_absolute_error(test, guess), rel=1e-5)
            assert found["r2"] == pytest.approx(metrics.r2_score(test, guess), abs=1e-5)
        elif name == "digits":
            guess = DummyClassifier(strategy="prior").fit(train[:, None], train).predict(test[:, None])
            assert found["accuracy"] == pytest.approx(metrics.accuracy_score(test, guess))
            assert found["recall"] == pytest.approx(metrics.balanced_accuracy_score(test, guess))
            assert found["auroc"] == pytest.approx(0.5)
        elif name == "digits_multilabel":
            assert found["map"] == pytest.approx(test.mean(0).mean(), rel=1e-5)  # that of a random order
        else:
            background = (test == 0).mean()
            assert found["accuracy"] == pytest.approx(background)
            assert found["iou"] == pytest.approx(background / 11, rel=1e-5)  # 0 for each of ten digits
        assert found.keys() == {key.removeprefix("test/") for key in results if re.fullmatch(r"test/\w+", key)} - {
            "loss"
        }


def test_a_reference_is_printed_by_fit_alone(capsys: pytest.CaptureFixture[str]) -> None:
    x = main([*FIT, "--trainer.max_epochs=1", "--test=true"])
    assert re.search(r"^accuracy +0\.\d{4} +0\.\d{4} +0\.1000$", capsys.readouterr().out, re.M)
    assert "reference" not in (x.run.path / "metrics.csv").read_text(encoding="utf-8")
    main(["test", f"--run={x.run.path}"])
    assert "reference" not in capsys.readouterr().out
