"""What a classifier logs equals what scikit-learn and plain loops compute."""

from copy import deepcopy
from functools import partial
from math import cos, pi

import numpy as np
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
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src import UserError
from src.cli import main
from src.data import DataModule, MixUp
from src.nets import MLP, Init
from src.optim import Cosine
from src.penalties import L1, L2
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


def test_soft_targets_reach_loss_and_accuracy_in_training():
    task, data = classifier(), Noise()
    data.mix, seen = MixUp(1.0), []
    task.register_forward_hook(lambda _, __, logits: seen.append(logits.detach()))
    run = trainer(max_epochs=1, limit_val_batches=0)
    batches: list[tuple[Tensor, Tensor]] = []
    run.callbacks.append(LambdaCallback(on_train_batch_start=lambda *args: batches.append(args[2])))
    run.fit(task, data)
    loss = accuracy = 0.0
    for logits, (_, soft) in zip(seen[-len(batches) :], batches, strict=True):
        assert 1 < (soft > 0).sum(1).float().mean() <= 2
        for row, target in zip(logits, soft, strict=True):
            loss -= float((target * row.log_softmax(0)).sum()) / 102
            accuracy += float(target[row.argmax()]) / 102
    assert run.callback_metrics["train/loss"].item() == pytest.approx(loss, rel=1e-5)
    assert run.callback_metrics["train/accuracy"].item() == pytest.approx(accuracy, rel=1e-5)


def test_a_loss_that_does_not_take_soft_targets_is_refused_before_training():
    task, data = classifier(loss=nn.MultiMarginLoss()), Noise()
    data.mix = MixUp()
    with pytest.raises(UserError, match=r"the loss does not take .* and the soft targets \(N, K\) that MixUp makes"):
        trainer(max_epochs=1).fit(task, data)


def test_balanced_class_weights_come_from_the_training_part_and_stay_with_the_weights():
    task, data = classifier(class_weights="balanced"), Noise()  # of the default loss
    trainer(max_epochs=1, limit_train_batches=1).fit(task, data)
    expected = compute_class_weight("balanced", classes=np.arange(7), y=data.parts["train"].classes.numpy())
    assert task.loss.weight.tolist() == pytest.approx(expected.tolist())
    fresh = classifier(loss=nn.CrossEntropyLoss(), class_weights="balanced")
    fresh.load_state_dict(task.state_dict())
    assert fresh.loss.weight.equal(task.loss.weight)


def test_class_weights_of_ones_own_are_used():
    task = classifier(3, loss=nn.CrossEntropyLoss(), class_weights=[1.0, 2.0, 0.5])
    logits, targets = torch.randn(9, 3), torch.arange(9) % 3
    expected = cross_entropy(logits, targets, weight=torch.tensor([1.0, 2.0, 0.5]))
    assert task.loss(logits, targets).equal(expected)
    with pytest.raises(ValueError, match="class_weights must be 3 numbers, one for each class, got 2"):
        classifier(3, loss=nn.CrossEntropyLoss(), class_weights=[1.0, 2.0])


def test_test_and_predict_average_over_views_and_validation_does_not():
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


def test_a_penalty_is_added_to_the_loss_and_logged_beside_it():
    task, data = classifier(penalties=[L2(0.1), L1(0.01)]), Noise()
    weight = task.net[1].weight.detach().clone()
    run = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(task, data)
    expected = 0.05 * weight.square().sum() + 0.01 * weight.abs().sum()
    assert run.callback_metrics["train/penalty"].item() == pytest.approx(float(expected))
    assert run.callback_metrics["train/loss"].item() < run.callback_metrics["train/loss_step"].item()


def test_init_draws_the_weights_of_the_net():
    assert classifier(init=Init(nn.init.constant_, {"val": 0.5})).net[1].weight.eq(0.5).all()


def test_groups_and_layer_decay_reach_the_optimizer():
    task = classifier(groups=[{"match": "1.bias", "lr": 0.3}], layer_decay=0.5)
    run = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(task, Noise())
    assert [(group["params"][0].ndim, group["lr"]) for group in run.optimizers[0].param_groups] == [(2, 0.1), (1, 0.3)]
