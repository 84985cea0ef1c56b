"""Task: optimizer, schedule, penalties and test-time augmentation, with targets of any kind."""

import json
from collections.abc import Callable
from functools import partial
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanAbsoluteError, MetricCollection
from torchmetrics.classification import MulticlassJaccardIndex

from src import tasks
from src.cli import main
from src.data import Digits
from src.losses import L1, L2
from src.nets import Init
from src.optim import Cosine
from src.tasks import Task
from tests.conftest import rows, same, weights
from tests.tasks.conftest import Noise, classifier, outputs, trainer


def test_tta_is_used_in_test_and_predict_but_not_in_validation():
    plain, averaged, data = classifier(), classifier(tta="mirror"), Noise()
    val, val_averaged = (trainer().validate(task, data, verbose=False) for task in (plain, averaged))
    assert val == val_averaged
    found = torch.cat(trainer().predict(averaged, data))
    images = torch.cat(list(data.predict_dataloader()))
    logits = (plain(images) + plain(images.flip(3))) / 2
    assert found.allclose(logits.softmax(1), atol=1e-6)
    (logged,) = trainer().test(averaged, data, verbose=False)
    _, targets = outputs(plain, data.test_dataloader())
    assert logged["test/loss"] == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-5)


def fail(*_: Any) -> None:
    raise OSError("interrupted")


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
@pytest.mark.parametrize("command", ["test", "predict"])
@pytest.mark.parametrize("settings", [{}, {"num_sanity_val_steps": 0, "limit_val_batches": 0}], ids=["val", "no val"])
def test_tta_does_not_stay_on_after_a_failed_test(command, settings):
    metrics = []
    for task in (classifier(tta="mirror"), classifier()):
        run = trainer(callbacks=[LambdaCallback(on_test_batch_end=fail, on_predict_batch_end=fail)])
        with pytest.raises(OSError, match="interrupted"):
            getattr(run, command)(task, Noise())
        run = trainer(max_epochs=1, **settings)
        run.fit(task, Noise())
        metrics.append(run.callback_metrics)
    assert "train/loss" in metrics[0]
    assert same(*metrics)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
@pytest.mark.parametrize("failed", ["fit", "validate", "test"])
def test_an_interrupted_run_leaves_nothing_in_later_metrics(failed):
    results = []
    for fails in (True, False):
        task, data = classifier(lr=0.0), Noise()
        if fails:
            hooks = dict.fromkeys(("on_train_batch_end", "on_validation_batch_end", "on_test_batch_end"), fail)
            run = trainer(callbacks=[LambdaCallback(**hooks)], max_epochs=1, num_sanity_val_steps=0)
            with pytest.raises(OSError, match="interrupted"):
                getattr(run, failed)(task, data)
        run = trainer(max_epochs=1)
        run.fit(task, data)
        results.append([dict(run.callback_metrics), *trainer().test(task, data, verbose=False)])
    assert same(*results)


def test_a_penalty_is_added_to_the_loss_and_logged_separately():
    task, data = classifier(penalties=[L2(0.1), L1(0.01)]), Noise()
    weight = task.net[1].weight.detach().clone()
    run = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(task, data)
    expected = 0.05 * weight.square().sum() + 0.01 * weight.abs().sum()
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    assert logged["train/penalty"] == pytest.approx(float(expected))
    assert logged["train/loss"] + logged["train/penalty"] == pytest.approx(logged["train/loss_step"])


def test_init_initializes_the_net():
    assert classifier(init=Init(nn.init.constant_, {"val": 0.5})).net[1].weight.eq(0.5).all()


def test_the_schedule_is_stepped_after_each_batch_and_ends_with_the_run():
    task, lrs = classifier(schedule=Cosine, warmup_steps=2), []
    run = trainer(max_epochs=2, limit_train_batches=3, limit_val_batches=0)
    record = LambdaCallback(on_train_batch_start=lambda *_: lrs.append(run.optimizers[0].param_groups[0]["lr"]))
    run.callbacks.append(record)
    run.fit(task, Noise())
    expected = [0.1 * (step + 1) / 3 for step in range(2)] + [0.05 * (1 + cos(pi * step / 4)) for step in range(4)]
    assert lrs == pytest.approx(expected)


def test_a_warm_up_below_1_is_a_share_of_the_run_and_stays_when_it_is_extended(tmp_path):
    def fitted(share, epochs, stored=None):
        task, run = classifier(schedule=Cosine, warmup_steps=share), trainer(max_epochs=epochs, limit_val_batches=0)
        run.limit_train_batches = 3
        if stored:
            task.on_load_checkpoint(stored)
        run.fit(task, Noise())
        return task, run

    task, run = fitted(0.5, 2)
    assert task.warmup_steps == 3  # of 6 steps
    run.save_checkpoint(tmp_path / "a.ckpt")
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert fitted(0.5, 4, stored)[0].warmup_steps == 3  # of 12
    assert fitted(0.75, 4, stored)[0].warmup_steps == 9  # another share


def test_reduce_on_plateau_is_stepped_after_each_epoch():
    task = classifier(schedule=partial(ReduceLROnPlateau, factor=0.5, patience=0, threshold=0.99))
    run = trainer(max_epochs=3)
    run.fit(task, Noise())
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 4)


@pytest.mark.parametrize(
    ("settings", "key", "expected"),
    [
        ({"optimizer": partial(SGD, lr=0.1, weight_decay=0.5)}, "weight_decay", [(2, 0.5), (1, 0)]),
        ({"groups": [{"match": "1.bias", "lr": 0.3}], "layer_decay": 0.5}, "lr", [(2, 0.1), (1, 0.3)]),
    ],
    ids=["no decay of biases", "groups and layer decay"],
)
def test_settings_of_parameter_groups_reach_the_optimizer(settings, key, expected):
    run = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(classifier(**settings), Noise())
    assert [(group["params"][0].ndim, group[key]) for group in run.optimizers[0].param_groups] == expected


def numbers(_: Tensor, classes: Tensor) -> Tensor:
    """Digit of each image, (N,)."""
    return classes.double() / 9


def pairs(images: Tensor, classes: Tensor) -> Tensor:
    """Digit and mean brightness of each image, (N, 2)."""
    return torch.stack([classes / 9, images.float().mean((1, 2, 3)) / 255], 1)


def masks(images: Tensor, _: Tensor) -> Tensor:
    """Class 1 where there is ink, (N, H, W)."""
    return (images[:, 0] > 100).byte()


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"numbers": numbers, "pairs": pairs, "masks": masks}


class OtherTargets(Digits):
    """Digits with numbers, pairs of numbers or masks as targets."""

    def __init__(self, kind: str, batch_size: int = 64, augment: list[nn.Module] | None = None) -> None:
        super().__init__(batch_size=batch_size, augment=augment)
        self.kind = kind

    def load(self, train: bool) -> tuple[Any, Tensor | None]:
        images, classes = super().load(train)
        self.class_names = None
        return images, KINDS[self.kind](images, classes)


class Regressor(Task):
    """Numbers (N,) or (N, D) for each image."""

    monitor = ("val/mae", "min")

    def __init__(self, net: nn.Module, **kwargs: Any) -> None:
        metrics = MetricCollection({"mae": MeanAbsoluteError()})
        super().__init__(net=net, val_metrics=metrics, test_metrics=metrics, **kwargs)
        self.seen: list[Tensor] = []

    def evaluate(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = batch
        self.seen.append(targets)
        outputs = self(inputs).view_as(targets)
        return mse_loss(outputs, targets), outputs.detach(), targets

    def step_metrics(self, preds: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"mae": (preds - targets).abs().mean()}


class Segmenter(Task):
    """A class for each pixel, (N, H, W)."""

    monitor = ("val/iou", "max")

    def __init__(self, net: nn.Module, **kwargs: Any) -> None:
        mean, each = MulticlassJaccardIndex(2), MulticlassJaccardIndex(2, average="none")
        val, test = MetricCollection({"iou": mean}), MetricCollection({"iou": mean, "iou_each": each})
        super().__init__(net=net, val_metrics=val, test_metrics=test, **kwargs)
        self.seen: list[Tensor] = []

    def evaluate(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = batch
        self.seen.append(targets)
        logits = self(inputs)
        return cross_entropy(logits, targets), logits.detach(), targets


class PixelNet(nn.Sequential):
    """Logits of each pixel: images (N, 1, H, W) -> (N, 2, H, W)."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 2, 1))


class StopAt(Callback):
    """Fail after some steps, as if the process were killed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            fail()


def config(kind: str) -> str:
    """Write the config of a run with these targets, and return the setting that names it."""
    augment = [{"class_path": "src.data.RandomCrop", "init_args": {"padding": 1}}]
    net: dict[str, Any] = {"class_path": f"{__name__}.PixelNet"}
    if kind != "masks":
        size = {"numbers": 1, "pairs": 2}[kind]
        shape = {"image_shape": [1, 8, 8], "hidden_sizes": [16], "dropout": 0.2}
        net = {"class_path": "src.nets.MLP", "init_args": {"num_outputs": size, **shape}}
    else:
        augment.append({"class_path": "src.data.RandomFlip"})
    task = f"{__name__}.{'Segmenter' if kind == 'masks' else 'Regressor'}"
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
    settings = {
        "data": {"class_path": f"{__name__}.OtherTargets", "init_args": {"kind": kind, "augment": augment}},
        "model": {"class_path": task, "init_args": {"net": net, "optimizer": optimizer}},
        "trainer": {"max_epochs": 3},
        "name": "other",
    }
    Path("other.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return "--config=other.yaml"


RUN = Path("runs/other/version_0")
ALL_KINDS = pytest.mark.parametrize(
    ("kind", "metric", "mode"), [("numbers", "mae", "min"), ("pairs", "mae", "min"), ("masks", "iou", "max")]
)


def computed(x: Any, kind: str) -> float:
    """Compute mae, or the mean iou of both classes, of the test set."""
    images, classes = Digits().load(train=False)
    targets = KINDS[kind](images, classes)
    with torch.no_grad():
        outputs = x.task.net.eval()(x.data.normalize(images))
    if kind != "masks":
        return float((outputs.view_as(targets) - targets).abs().mean())
    preds = outputs[:, 1] > outputs[:, 0]
    both = [(preds == k) & (targets == k) for k in (0, 1)]
    either = [(preds == k) | (targets == k) for k in (0, 1)]
    return sum(int(a.sum()) / int(b.sum()) for a, b in zip(both, either, strict=True)) / 2


@ALL_KINDS
def test_targets_of_any_kind_are_trained_on_and_tested(kind, metric, mode, capsys):
    x = main(["fit", config(kind), "--trust"])
    logged = [float(row[f"val/{metric}"]) for row in rows(RUN) if row[f"val/{metric}"]]
    assert (x.best.monitor, x.best.mode) == (f"val/{metric}", mode)
    assert x.best.score == pytest.approx({"min": min, "max": max}[mode](logged))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [f"  val/{metric} {value:.4f}  " in line for line, value in zip(lines, logged, strict=True)] == [True] * 3
    results = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    assert results[f"test/{metric}"] == pytest.approx(computed(x, kind), rel=1e-4)
    losses = [float(row["train/loss"]) for row in rows(RUN) if row["train/loss"]]
    assert losses[2] < losses[0]
    assert x.data.class_names is None


@ALL_KINDS
def test_targets_of_any_kind_reach_evaluate_unchanged(kind, metric, mode):  # noqa: ARG001
    x = main(["fit", config(kind), "--trust", "--trainer.max_epochs=1", "--data.batch_size=144", "--test=false"])
    images, classes = Digits().load(train=True)
    expected = KINDS[kind](images, classes)[x.data.splits["val"].index]
    assert x.task.seen[0].equal(expected.long() if kind == "masks" else expected.float())  # of the sanity check


@ALL_KINDS
def test_a_run_on_targets_of_any_kind_resumes_bit_for_bit(kind, metric, mode):  # noqa: ARG001
    main(["fit", config(kind), "--trust", "--test=false"])
    stop = ["--last.every_n_steps=4", f"--trainer.callbacks={__name__}.StopAt", "--trainer.callbacks.step=30"]
    with pytest.raises(OSError, match="interrupted"):
        main(["fit", config(kind), "--trust", "--test=false", *stop])
    resumed = RUN.with_name("version_1")
    main(["fit", f"--run={resumed}", "--trust", "--trainer.callbacks=[]"])
    assert same(weights(resumed), weights(RUN))
    assert rows(resumed) == rows(RUN)
    assert f"val/{metric}" in rows(RUN)[0]


def test_metrics_per_class_are_numbered_without_class_names(capsys):
    main(["fit", config("masks"), "--trust", "--trainer.max_epochs=1"])
    capsys.readouterr()
    main(["test", f"--run={RUN}", "--trust"])
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    iou, head, *classes = [values for values in table if values[0] in ("iou", "class", "0", "1")]
    assert head == ["class", "iou"]
    assert [name for name, _ in classes] == ["0", "1"]
    assert sum(float(value) for _, value in classes) / 2 == pytest.approx(float(iou[1]), abs=1e-4)


@pytest.mark.parametrize(("kind", "shape"), [(tasks.MultiLabel, (3,)), (tasks.Segmenter, (3, 2, 2))])
def test_weights_of_a_loss_stay_exact_and_as_configured(kind: Any, shape: tuple[int, ...]) -> None:
    def task(weight: float) -> Any:
        if kind is tasks.MultiLabel:
            loss: nn.Module = nn.BCEWithLogitsLoss(pos_weight=torch.full((3,), weight))
        else:
            loss = nn.CrossEntropyLoss(weight=torch.tensor([weight, 1, 1]))
        return kind(nn.Conv2d(3, 3, 1), num_classes=3, loss=loss, optimizer=SGD)

    old, new = task(0.1), task(0.7)
    half = task(0.1).to(torch.bfloat16)
    assert half.net.weight.dtype == torch.bfloat16
    logits = torch.randn(4, *shape)
    targets = (logits > 1).float() if kind is tasks.MultiLabel else torch.arange(16).view(4, 2, 2) % 3
    assert half.loss(logits, targets) == old.loss(logits, targets)
    checkpoint = {"state_dict": old.state_dict()}
    new.on_load_checkpoint(checkpoint)
    new.load_state_dict(checkpoint["state_dict"])
    assert new.loss(logits, targets) == task(0.7).loss(logits, targets)
    assert new.net.weight.equal(old.net.weight)
