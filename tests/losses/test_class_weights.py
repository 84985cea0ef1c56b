"""Weights of classes are scikit-learn's, and reach the loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from src import UserError
from src.cli import main
from src.data.samples import Samples
from src.losses import BinaryCrossEntropy
from src.tasks.class_weights import balanced, weigh

TARGETS = torch.tensor([0] * 30 + [1] * 9 + [2])
DATA = SimpleNamespace(parts={"train": Samples(TARGETS, TARGETS)})


def test_balanced_weights_are_those_of_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=TARGETS.numpy())
    assert balanced(nn.CrossEntropyLoss(), 3, DATA) == pytest.approx(expected.tolist())


def test_a_pos_weight_is_negatives_for_each_positive():
    assert balanced(BinaryCrossEntropy(), 3, DATA) == pytest.approx([10 / 30, 31 / 9, 39])


def test_balanced_classes_count_the_same_in_the_loss():
    loss = nn.CrossEntropyLoss(reduction="none")
    weigh(loss, 3, balanced(loss, 3, DATA))
    losses = loss(torch.zeros(40, 3), TARGETS)
    sums = [float(losses[k == TARGETS].sum()) for k in range(3)]
    assert sums == pytest.approx([sums[0]] * 3)


@pytest.mark.parametrize("loss", [nn.functional.cross_entropy, nn.MSELoss()])
def test_a_loss_without_weights_is_refused(loss):
    with pytest.raises(UserError, match=r"class_weights needs a loss that has them, such as torch.nn.CrossEntropyLoss"):
        weigh(loss, 3, [1, 1, 1])


FIT = ["fit", "--config=configs/digits.yaml", "--model.net.width=2", "--model.loss=torch.nn.CrossEntropyLoss"]


def test_class_weights_that_are_typed_go_before_those_of_a_checkpoint():
    ones, others = ([1.0] * 10, [9.0, *[1.0] * 9])
    main([*FIT, f"--model.class_weights={ones}", "--trainer.max_epochs=1"])
    run = "--run=runs/digits/version_0"
    cli = main(["fit", run, f"--model.class_weights={others}", "--trainer.max_epochs=2"])
    assert cli.model.loss.weight.tolist() == others
    assert main(["test", run]).model.loss.weight.tolist() == others
    assert main(["test", run, "--model.class_weights=null"]).model.loss.weight is None


def test_class_weights_go_with_weights_in_half_precision():
    cli = main([*FIT, f"--model.class_weights={[2.0] * 10}", "--trainer.precision=bf16-true", "--trainer.max_epochs=1"])
    assert (cli.run.path / "results.json").is_file()


def test_balanced_class_weights_are_known_in_a_later_test():
    fitted = main([*FIT, "--model.class_weights=balanced", "--trainer.max_epochs=1"]).model.loss.weight
    assert not fitted.eq(1).all()
    assert main(["test", "--run=runs/digits/version_0"]).model.loss.weight.equal(fitted)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--model.class_weights=[1,2]"], "class_weights must be 10 numbers, one for each class, got 2"),
        (["--model.class_weights=[-1,1,1,1,1,1,1,1,1,1]"], "class_weights must be numbers of at least 0"),
        (
            ["--model.class_weights=balanced", "--model.loss=torch.nn.functional.multi_margin_loss"],
            "got multi_margin_loss",
        ),
        (["--model.loss={class_path: src.losses.FocalLoss, init_args: {weight: [1, 2, 3]}}"], "the loss does not take"),
    ],
)
def test_mistakes_are_answered_in_one_line(typed, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*FIT, *typed])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
