"""Losses agree with torch's or with closed forms, for classes and for soft labels."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torchvision.ops import sigmoid_focal_loss

from src.cli import main
from src.losses import BinaryCrossEntropy, FocalLoss, Hinge

N, K = 6, 4
WEIGHT = [0.5, 1.0, 2.0, 0.25]
LOSSES = [
    FocalLoss(),
    FocalLoss(gamma=0.5, weight=WEIGHT, label_smoothing=0.1),
    BinaryCrossEntropy(),
    BinaryCrossEntropy(pos_weight=WEIGHT, label_smoothing=0.1),
    Hinge(),
    Hinge(margin=0.7, p=2, weight=WEIGHT),
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batch(kind: str, dtype: torch.dtype = torch.float) -> tuple[Tensor, Tensor]:
    logits, classes = torch.randn(N, K, dtype=dtype), torch.tensor([0, 1, 2, 3, 1, 1])
    soft = torch.rand(N, K, dtype=dtype)
    return logits, classes if kind == "classes" else soft / soft.sum(1, keepdim=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("weight", "kind"), [(None, "classes"), (WEIGHT, "classes"), (None, "soft")])
def test_focal_loss_with_gamma_0_is_cross_entropy(weight, kind, smoothing):
    logits, targets = batch(kind)
    expected = nn.CrossEntropyLoss(weight and torch.tensor(weight), label_smoothing=smoothing)(logits, targets)
    torch.testing.assert_close(FocalLoss(0, weight, smoothing)(logits, targets), expected)


@pytest.mark.parametrize("kind", ["classes", "soft"])
def test_focal_loss_agrees_with_its_formula(kind):
    logits, targets = batch(kind)
    p = logits.softmax(1)
    loss = weights = 0.0
    for n in range(N):
        label = targets[n].tolist() if kind == "soft" else [float(k == targets[n]) for k in range(K)]
        for k in range(K):
            loss += WEIGHT[k] * (0.8 * label[k] + 0.2 / K) * (1 - p[n, k]) ** 1.5 * -p[n, k].log()
            weights += WEIGHT[k] * label[k]
    torch.testing.assert_close(FocalLoss(1.5, WEIGHT, 0.2)(logits, targets), loss / weights)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_two_classes_is_the_sigmoid_focal_loss(gamma):
    logits, targets = torch.randn(N, 2), torch.tensor([0, 1, 1, 0, 1, 1])
    z = logits[:, 1] - logits[:, 0]
    theirs = sigmoid_focal_loss(z, targets.float(), alpha=0.25, gamma=gamma, reduction="sum") / (2 * 0.75 + 4 * 0.25)
    torch.testing.assert_close(FocalLoss(gamma, [0.75, 0.25])(logits, targets), theirs)


def test_gamma_down_weights_well_classified_samples():
    logits, targets = torch.tensor([[3.0, 0.0]]), torch.tensor([0])
    losses = [FocalLoss(gamma)(logits, targets) for gamma in (0, 1, 2, 5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0].item() == pytest.approx(cross_entropy(logits, targets).item())


@pytest.mark.parametrize("pos_weight", [None, WEIGHT])
def test_binary_cross_entropy_is_torchs_on_smoothed_one_hot_labels(pos_weight):
    logits, classes = batch("classes")
    labels = torch.full((N, K), 0.1 / K)
    labels[range(N), classes] = 1 - 0.1 + 0.1 / K
    expected = nn.BCEWithLogitsLoss(pos_weight=pos_weight and torch.tensor(pos_weight))(logits, labels)
    torch.testing.assert_close(BinaryCrossEntropy(pos_weight, 0.1)(logits, classes), expected)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize(("margin", "p"), [(1.0, 1), (0.5, 2)])
def test_hinge_is_torchs_multi_margin_loss_averaged_over_soft_labels(margin, p, weight):
    logits, classes = batch("classes")
    theirs = nn.MultiMarginLoss(p, margin, weight and torch.tensor(weight))
    ours = Hinge(margin, p, weight)
    torch.testing.assert_close(ours(logits, classes), theirs(logits, classes))
    logits, soft = batch("soft")
    losses = [[theirs(logits[n : n + 1], torch.tensor([k])) * soft[n, k] for k in range(K)] for n in range(N)]
    torch.testing.assert_close(ours(logits, soft), torch.tensor(losses).sum() / N)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_one_hot_label_equals_its_class(loss):
    logits, classes = batch("classes")
    torch.testing.assert_close(loss(logits, one_hot(classes, K).float()), loss(logits, classes))


@pytest.mark.parametrize("kind", ["classes", "soft"])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradients_agree_with_finite_differences(loss, kind):
    logits, targets = batch(kind, torch.double)
    if isinstance(loss, Hinge):  # no difference of logits at the margin, where the loss has a kink
        assert (((logits[:, :, None] - logits[:, None]).abs() - loss.margin).abs() > 1e-3).all()
    assert torch.autograd.gradcheck(lambda z: loss(z, targets), logits.requires_grad_())


@pytest.mark.parametrize("kind", ["classes", "soft"])
@pytest.mark.parametrize("loss", [*LOSSES, FocalLoss(0), FocalLoss(0.5), FocalLoss(1)], ids=repr)
def test_extreme_logits_give_finite_losses_and_gradients(loss, kind):
    _, targets = batch(kind)
    logits = torch.tensor([[1e4, -1e4, 0, 0]]).repeat(N, 1).requires_grad_()
    value = loss(logits, targets)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["classes", "soft"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_half_precision_logits_are_evaluated_in_float32(loss, dtype, autocast, kind):
    logits, targets = batch(kind)
    logits = logits.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype, enabled=autocast):
        value = loss(logits, targets)
    torch.testing.assert_close(value, loss(logits.float(), targets))
    value.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "name"), [(FocalLoss, "weight"), (BinaryCrossEntropy, "pos_weight"), (Hinge, "weight")]
)
def test_class_weights_are_a_buffer_that_can_be_set_later(loss, name):
    logits, targets = batch("soft")
    later, given = loss(), loss(**{name: WEIGHT})
    assert dict(later.named_buffers()) == {}
    assert getattr(later, name) is None
    assert not torch.equal(later(logits, targets), given(logits, targets))
    setattr(later, name, torch.tensor(WEIGHT))
    assert torch.equal(later(logits, targets), given(logits, targets))
    assert list(later.state_dict()) == [name]
    assert getattr(later.double(), name).dtype == torch.double


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FocalLoss(-1), "gamma must be at least 0, got -1"),
        (lambda: FocalLoss(label_smoothing=1.1), r"label_smoothing must be in \[0, 1\], got 1.1"),
        (lambda: FocalLoss(weight=[1, -1]), r"weight must be finite numbers of at least 0, .*, got \[1, -1\]"),
        (lambda: Hinge(weight=[0, 0]), r"weight must be finite .*, at least one above 0, got \[0, 0\]"),
        (lambda: BinaryCrossEntropy([]), r"pos_weight must be finite numbers .*, got \[\]"),
        (lambda: BinaryCrossEntropy(label_smoothing=-0.1), r"label_smoothing must be in \[0, 1\], got -0.1"),
        (lambda: Hinge(margin=0), "margin must be above 0, got 0"),
        (lambda: Hinge(p=3), "p must be 1 or 2, got 3"),
    ],
)
def test_invalid_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "loss",
    [
        ["src.losses.FocalLoss", "gamma=1", f"weight={[1.0] * 10}"],
        ["src.losses.BinaryCrossEntropy", "label_smoothing=0.1"],
        ["src.losses.Hinge", "p=2"],
        ["torch.nn.MultiMarginLoss", "p=2"],
    ],
    ids=lambda loss: loss[0],
)
def test_the_command_line_sets_the_loss(loss):
    settings = [f"--model.loss={loss[0]}", *(f"--model.loss.{setting}" for setting in loss[1:])]
    experiment = main(["fit", "--config=configs/digits.yaml", *settings, "--trainer.fast_dev_run=1"])
    assert type(experiment.task.loss).__name__ == loss[0].split(".")[-1]
    assert experiment.trainer.callback_metrics["test/loss"].isfinite()
