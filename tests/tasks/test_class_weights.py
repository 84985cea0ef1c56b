"""Weights of classes are scikit-learn's, and reach the loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from src import UserError
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
