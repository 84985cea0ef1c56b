"""Class weights agree with scikit-learn's, reach the loss, and a changed config wins over the checkpoint."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from src import UserError
from src.cli import main
from src.losses import BinaryCrossEntropy, FocalLoss
from src.losses.class_weights import balanced_weights, loss_denominator, restore_class_weights, set_class_weights

TARGETS = torch.tensor([0] * 30 + [1] * 9 + [2])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5])
FIT = ["fit", "--config=configs/digits.yaml", "--model.net.width=2", "--model.loss=torch.nn.CrossEntropyLoss"]
RUN = "--run=runs/digits/version_0"


def test_balanced_weights_agree_with_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=TARGETS.numpy())
    assert balanced_weights(nn.CrossEntropyLoss(), 3, TARGETS) == pytest.approx(expected.tolist())


def test_balanced_pos_weights_are_negatives_per_positive():
    assert balanced_weights(BinaryCrossEntropy(), 3, TARGETS) == pytest.approx([10 / 30, 31 / 9, 39])


def test_a_class_without_samples_gets_a_finite_weight():
    assert balanced_weights(nn.CrossEntropyLoss(), 4, TARGETS)[3] == 10


def test_balanced_classes_contribute_equally_to_the_loss():
    loss = nn.CrossEntropyLoss(reduction="none")
    set_class_weights(loss, 3, balanced_weights(loss, 3, TARGETS))
    losses = loss(torch.zeros(40, 3), TARGETS)
    sums = [float(losses[k == TARGETS].sum()) for k in range(3)]
    assert sums == pytest.approx([sums[0]] * 3)


class NoBuffer(nn.Module):
    """A loss whose attribute and parameter have the names of class weights."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_weight, self.weight = None, nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("loss", [nn.functional.cross_entropy, nn.MSELoss(), NoBuffer()])
def test_a_loss_without_class_weights_is_rejected(loss):
    with pytest.raises(UserError, match=r"class_weights needs a loss with class weights, such as torch.nn.CrossEntr"):
        set_class_weights(loss, 3, [1, 1, 1])


@pytest.mark.parametrize("weights", [[1, -1, 1], [0, 0, 0], [1, 1, float("inf")], [1, float("nan"), 1]])
def test_weights_that_are_not_finite_and_positive_are_rejected(weights):
    with pytest.raises(UserError, match="class_weights must be finite numbers of at least 0, at least one above 0"):
        set_class_weights(nn.CrossEntropyLoss(), 3, weights)


@pytest.mark.parametrize("keep_stored", [False, True])
@pytest.mark.parametrize(("loss", "name"), [(FocalLoss(), "weight"), (BinaryCrossEntropy(), "pos_weight")])
def test_stored_class_weights_win_only_if_kept(loss, name, keep_stored):
    set_class_weights(loss, 2, [1.0, 2.0])
    states = [{f"loss.{name}": torch.tensor([3.0, 4.0])}, {"net.weight": torch.ones(1)}]
    restore_class_weights(states, loss, keep_stored)
    assert states[0][f"loss.{name}"].tolist() == ([3.0, 4.0] if keep_stored else [1.0, 2.0])
    assert states[1].keys() == {"net.weight", f"loss.{name}"}
    assert states[1][f"loss.{name}"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss(), nn.functional.cross_entropy])
def test_stored_class_weights_are_removed_if_the_loss_has_none(loss):
    state = {"loss.weight": torch.ones(2), "loss.pos_weight": torch.ones(2), "net.weight": torch.ones(1)}
    restore_class_weights([state], loss, keep_stored=False)
    assert state.keys() == {"net.weight"}


def test_trained_parameters_of_a_loss_are_not_class_weights():
    stored = torch.zeros(3)
    state = {"loss.weight": stored}
    restore_class_weights([state], NoBuffer(), keep_stored=False)
    assert state["loss.weight"] is stored


def test_changed_class_weights_win_over_those_of_the_checkpoint():
    ones, others = ([1.0] * 10, [9.0, *[1.0] * 9])
    main([*FIT, f"--model.class_weights={ones}", "--trainer.max_epochs=1"])
    resumed = main(["fit", RUN, f"--model.class_weights={others}", "--trainer.max_epochs=2"])
    assert resumed.task.loss.weight.tolist() == others
    assert main(["test", RUN]).task.loss.weight.tolist() == others
    assert main(["test", RUN, "--model.class_weights=null"]).task.loss.weight is None


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=WEIGHTS, ignore_index=1),
        FocalLoss(gamma=1.0),
        FocalLoss(gamma=1.0, weight=WEIGHTS.tolist()),
        BinaryCrossEntropy(),
        nn.MultiMarginLoss(weight=WEIGHTS),
    ],
    ids=lambda loss: f"{type(loss).__name__}{'' if getattr(loss, 'weight', None) is None else ' weighted'}",
)
def test_means_of_parts_weighted_by_denominators_give_the_mean(loss, soft):
    if soft and (isinstance(loss, nn.MultiMarginLoss) or getattr(loss, "ignore_index", -100) >= 0):
        pytest.skip("takes only classes")
    logits, classes = torch.randn(12, 3), torch.tensor([0, 1, 2, 2, 0, 1, 1, 1, 0, 2, 2, 0])
    targets = torch.randn(12, 3).softmax(1) if soft else classes
    parts = [slice(0, 5), slice(5, 6), slice(6, 12)]  # sample 5 alone is of the ignored class
    weights = torch.tensor([float(loss_denominator(loss, targets[part])) for part in parts])
    means = torch.stack(
        [loss(logits[part], targets[part]) for part in parts]
    ).nan_to_num()  # 0 / 0 where all is ignored
    torch.testing.assert_close((weights * means).sum() / weights.sum(), loss(logits, targets))


def test_class_weights_work_in_half_precision():
    settings = [f"--model.class_weights={[2.0] * 10}", "--trainer.precision=bf16-true", "--trainer.max_epochs=1"]
    assert (main([*FIT, *settings]).run.path / "results.json").is_file()


def test_balanced_class_weights_are_restored_from_the_checkpoint():
    fitted = main([*FIT, "--model.class_weights=balanced", "--trainer.max_epochs=1"]).task.loss.weight
    assert not fitted.eq(1).all()
    assert main(["test", RUN]).task.loss.weight.equal(fitted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model.class_weights=[1,2]"], "class_weights must be 10 numbers, one for each class, got 2"),
        (["--model.class_weights=[-1,1,1,1,1,1,1,1,1,1]"], "class_weights must be finite numbers of at least 0"),
        (
            ["--model.class_weights=balanced", "--model.loss=torch.nn.functional.multi_margin_loss"],
            "got multi_margin_loss",
        ),
        (
            ["--model.loss={class_path: src.losses.FocalLoss, init_args: {weight: [1, 2, 3]}}"],
            "the loss does not accept",
        ),
    ],
)
def test_invalid_class_weights_are_one_line_errors(settings, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*FIT, *settings])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
