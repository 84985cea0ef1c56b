"""What a classifier logs equals what scikit-learn and plain loops compute."""

from copy import deepcopy
from functools import partial
from math import cos, pi

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from sklearn.metrics import (
    accuracy_score,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src import UserError
from src.cli import main
from src.data import DataModule
from src.nets import MLP
from src.optim import Cosine
from src.tasks import Classifier

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")


class Noise(DataModule):
    """Images that tell a little of their classes; batches of unequal size."""

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__(batch_size=29, folds=3)
        self.class_names = [f"class/{i}" for i in range(num_classes)]

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(train))
        targets = torch.randint(len(self.class_names), (153,), generator=generator)
        images = torch.randint(200, (153, 1, 2, 3), generator=generator) + 8 * targets[:, None, None, None]
        return images.byte(), targets


def classifier(num_classes: int = 7, lr: float = 0.1, **settings) -> Classifier:
    torch.manual_seed(0)
    net = partial(MLP, image_shape=(1, 2, 3), hidden_sizes=[])
    return Classifier(net, num_classes, optimizer=partial(SGD, lr=lr), **settings)


def trainer(**settings) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", logger=False, log_every_n_steps=1, **quiet, **settings)


def outputs(task: Classifier, loader) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        batches = [(task(images), targets) for images, targets in loader]
    logits, targets = (torch.cat(values) for values in zip(*batches, strict=True))
    return logits, targets


def scores(logits: Tensor, targets: Tensor, average: str | None) -> dict:
    """Return scikit-learn's scores of each class or their mean."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, logits.argmax(1), average=average, zero_division=0, labels=range(logits.shape[1])
    )
    auroc = roc_auc_score(targets, logits.softmax(1), multi_class="ovr", average=average)
    return {"precision": precision, "recall": recall, "f1": f1, "auroc": auroc}


def test_training_logs_the_means_over_the_samples_of_each_epoch():
    task, data = classifier(), Noise()
    net = deepcopy(task.net)
    run = trainer(max_epochs=2, limit_val_batches=0)
    run.fit(task, data)
    optimizer, loader = SGD(net.parameters(), lr=0.1), data.loader("train", shuffle=True)
    for epoch in range(2):
        losses, hits, sizes = [], [], []
        loader.sampler.set_epoch(epoch)
        for images, targets in loader:
            logits = net(images)
            loss = cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(targets))
            hits.append((logits.argmax(1) == targets).sum().item())
            sizes.append(len(targets))
    assert len(set(sizes)) > 1  # a mean of means would be another number
    assert run.callback_metrics["train/loss"].item() == pytest.approx(sum(losses) / sum(sizes), rel=1e-5)
    assert run.callback_metrics["train/accuracy"].item() == pytest.approx(sum(hits) / sum(sizes))
    torch.testing.assert_close(task.net.state_dict(), net.state_dict())


@pytest.mark.parametrize("num_classes", [2, 5, 7])
def test_validation_logs_what_scikit_learn_computes(num_classes):
    task, data = classifier(num_classes), Noise(num_classes)
    (logged,) = trainer().validate(task, data, verbose=False)
    logits, targets = outputs(task, data.val_dataloader())
    expected = {
        "loss": cross_entropy(logits, targets).item(),
        "accuracy": accuracy_score(targets, logits.argmax(1)),
    }
    if num_classes > 2:
        expected |= scores(logits, targets, "macro")
    if num_classes > 5:
        expected["top5_accuracy"] = top_k_accuracy_score(targets, logits, k=5)
    found = {name: logged[f"val/{name}"] for name in expected}
    assert found == pytest.approx(expected, abs=1e-5)
    names = {"loss", "accuracy", "precision", "recall", "f1", "auroc"} | set(expected)
    assert set(logged) == {f"val/{name}" for name in names}


def test_a_test_logs_each_class_by_name_too():
    task, data = classifier(), Noise()
    (logged,) = trainer().test(task, data, verbose=False)
    logits, targets = outputs(task, data.test_dataloader())
    expected = {f"test/{name}": value for name, value in scores(logits, targets, "macro").items()} | {
        f"test/{name}/class/{i}": value
        for name, values in scores(logits, targets, None).items()
        for i, value in enumerate(values)
    }
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert set(logged) - set(expected) == {"test/loss", "test/accuracy", "test/top5_accuracy"}


def test_a_second_validation_starts_anew():
    task, data = classifier(), Noise()
    trainer().validate(task, data, verbose=False)
    again, alone = (trainer(limit_val_batches=1).validate(t, data, verbose=False) for t in (task, classifier()))
    assert again == alone


def test_logits_between_0_and_1_are_not_taken_for_probabilities():
    task, data = classifier(), Noise()
    with torch.no_grad():
        task.net[1].weight.mul_(0.02)
        task.net[1].bias.fill_(0.5)
    (logged,) = trainer().validate(task, data, verbose=False)
    logits, targets = outputs(task, data.val_dataloader())
    assert 0 <= logits.min() < logits.max() <= 1
    assert logged["val/auroc"] == pytest.approx(scores(logits, targets, "macro")["auroc"], abs=1e-5)


def test_prediction_gives_the_probability_of_each_class():
    task, data = classifier(), Noise()
    found = torch.cat(trainer().predict(task, data))
    logits, _ = outputs(task, data.test_dataloader())
    assert found.sum(1).allclose(torch.ones(153))
    assert found.allclose(logits.softmax(1), atol=1e-6)


def test_a_loss_can_be_named_by_its_class(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored after the command has set it
    loss = '{"class_path": "torch.nn.CrossEntropyLoss", "init_args": {"label_smoothing": 0.25}}'
    task = main(["fit", "--config=configs/digits.yaml", "--trainer.fast_dev_run=1", f"--model.loss={loss}"]).model
    logits, targets = torch.randn(5, 10), torch.tensor([0, 1, 2, 3, 9])
    assert task.loss(logits, targets).equal(cross_entropy(logits, targets, label_smoothing=0.25))


def test_another_number_of_classes_than_the_data_have_is_refused():
    with pytest.raises(UserError, match=r"num_classes must be 7, the classes of the data \(class/0, .*\), got 6"):
        trainer().validate(classifier(6), Noise(), verbose=False)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        classifier(num_classes=1)


def test_the_schedule_is_stepped_after_each_batch_and_ends_with_the_run():
    task = classifier(schedule=Cosine, warmup_steps=2)
    run = trainer(max_epochs=2, limit_train_batches=3, limit_val_batches=0)
    rates = []
    note = LambdaCallback(on_train_batch_start=lambda *_: rates.append(run.optimizers[0].param_groups[0]["lr"]))
    run.callbacks.append(note)
    run.fit(task, Noise())
    expected = [0.1 * (step + 1) / 3 for step in range(2)] + [0.05 * (1 + cos(pi * step / 4)) for step in range(4)]
    assert rates == pytest.approx(expected)


def test_a_schedule_on_plateaus_is_stepped_after_each_epoch():
    task = classifier(schedule=partial(ReduceLROnPlateau, factor=0.5, patience=0, threshold=0.99))
    run = trainer(max_epochs=3)
    run.fit(task, Noise())
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_weight_decay_spares_biases():
    task = classifier()
    task.optimizer = partial(SGD, lr=0.1, weight_decay=0.5)
    run = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(task, Noise())
    assert [(g["params"][0].ndim, g["weight_decay"]) for g in run.optimizers[0].param_groups] == [(2, 0.5), (1, 0)]
