"""What a classifier logs equals what scikit-learn and plain loops compute."""

from copy import deepcopy

import numpy as np
import pytest
import torch
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

from src import UserError
from src.cli import main
from src.data import MixUp
from tests.tasks.conftest import Noise, classifier, outputs, trainer


def scores(logits: Tensor, targets: Tensor, average: str | None) -> dict:
    """Return scikit-learn's scores per class, or their mean."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, logits.argmax(1), average=average, zero_division=0, labels=range(logits.shape[1])
    )
    auroc = roc_auc_score(targets, logits.softmax(1), multi_class="ovr", average=average)
    return {"precision": precision, "recall": recall, "f1": f1, "auroc": auroc}


def test_training_logs_means_over_the_samples_of_each_epoch():
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
    others = {name for name in logged if not name.startswith("reference/")} - set(expected)
    assert others == {"test/loss", "test/accuracy", "test/top5_accuracy"}


def test_a_second_validation_does_not_count_the_first():
    task, data = classifier(), Noise()
    trainer().validate(task, data, verbose=False)
    again, alone = (trainer(limit_val_batches=1).validate(t, data, verbose=False) for t in (task, classifier()))
    assert again == alone


def test_logits_between_0_and_1_are_not_mistaken_for_probabilities():
    task, data = classifier(), Noise()
    with torch.no_grad():
        task.net[1].weight.mul_(0.02)
        task.net[1].bias.fill_(0.5)
    (logged,) = trainer().validate(task, data, verbose=False)
    logits, targets = outputs(task, data.val_dataloader())
    assert 0 <= logits.min() < logits.max() <= 1
    assert logged["val/auroc"] == pytest.approx(scores(logits, targets, "macro")["auroc"], abs=1e-5)


def test_prediction_returns_the_probability_of_each_class():
    task, data = classifier(), Noise()
    found = torch.cat(trainer().predict(task, data))
    logits, _ = outputs(task, data.test_dataloader())
    assert found.sum(1).allclose(torch.ones(153))
    assert found.allclose(logits.softmax(1), atol=1e-6)


def test_a_loss_can_be_named_by_its_class():
    loss = '{"class_path": "torch.nn.CrossEntropyLoss", "init_args": {"label_smoothing": 0.25}}'
    task = main(["fit", "--config=configs/digits.yaml", "--trainer.fast_dev_run=1", f"--model.loss={loss}"]).task
    logits, targets = torch.randn(5, 10), torch.tensor([0, 1, 2, 3, 9])
    assert task.loss(logits, targets).equal(cross_entropy(logits, targets, label_smoothing=0.25))


def test_another_number_of_classes_than_in_the_data_is_refused():
    with pytest.raises(UserError, match=r"num_classes must be 7, the classes of the data \(class/0, .*\), got 6"):
        trainer().validate(classifier(6), Noise(), verbose=False)


def test_one_class_is_refused():
    with pytest.raises(UserError, match="num_classes must be at least 2, got 1"):
        classifier(num_classes=1)


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


def test_a_loss_that_does_not_accept_soft_targets_is_refused():
    task, data = classifier(loss=nn.MultiMarginLoss()), Noise()
    data.mix = MixUp()
    error = r"^the loss does not accept logits \(N, 7\) and the soft targets \(N, K\) of MixUp "
    with pytest.raises(UserError, match=error):
        trainer(max_epochs=1).fit(task, data)


def test_balanced_class_weights_come_from_the_training_split_and_stay():
    task, data = classifier(class_weights="balanced"), Noise()  # of the default loss
    trainer(max_epochs=1, limit_train_batches=1).fit(task, data)
    expected = compute_class_weight("balanced", classes=np.arange(7), y=data.splits["train"].classes.numpy())
    assert task.loss.weight.tolist() == pytest.approx(expected.tolist())
    fresh = classifier(loss=nn.CrossEntropyLoss(), class_weights="balanced")
    fresh.load_state_dict(task.state_dict())
    assert fresh.loss.weight.equal(task.loss.weight)


def test_balanced_class_weights_need_data_with_classes():
    task, loader = classifier(class_weights="balanced"), [(torch.zeros(2, 1, 2, 3), torch.tensor([0, 1]))]
    with pytest.raises(UserError, match=r"class_weights: balanced needs data derived from src\.data\.DataModule"):
        trainer(max_epochs=1).fit(task, loader, loader)


def test_listed_class_weights_are_used():
    task = classifier(3, loss=nn.CrossEntropyLoss(), class_weights=[1.0, 2.0, 0.5])
    logits, targets = torch.randn(9, 3), torch.arange(9) % 3
    expected = cross_entropy(logits, targets, weight=torch.tensor([1.0, 2.0, 0.5]))
    assert task.loss(logits, targets).equal(expected)
    with pytest.raises(UserError, match="class_weights must be 3 numbers, one for each class, got 2"):
        classifier(3, loss=nn.CrossEntropyLoss(), class_weights=[1.0, 2.0])


def test_bf16_probabilities_are_those_of_its_logits_in_float32():
    task, data = classifier(), Noise()
    trainer(precision="bf16-true").validate(task, data, verbose=False)
    task.to(torch.bfloat16)
    images = torch.randn(8, *next(iter(data.val_dataloader()))[0].shape[1:], dtype=torch.bfloat16)
    found, logits = task.predict_step(images, 0), task.net.eval()(images)
    assert found.dtype == torch.float32
    assert found.equal(logits.float().softmax(1))


class Shifted(Noise):
    """Noise with a class too many in the test set, and without names of classes."""

    def load(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        self.class_names = [str(i) for i in range(7)]
        images, targets = super().load(train)
        self.class_names = None
        return images, targets if train else targets + 1


def test_a_class_that_only_the_test_set_has_is_refused() -> None:
    data, task = Shifted(), classifier()
    run = trainer(max_epochs=1)
    run.fit(task, data)
    with pytest.raises(UserError, match="num_classes is 7, but the targets have class 7"):
        run.test(task, data, verbose=False)
