"""Labels that depend on inputs are told from shuffled ones, whatever their kind."""

import pytest
import torch
from torch import Tensor

from src.analysis.model.label_check import inputs_and_labels, labels_depend_on_inputs

N = 200


def related(kind: str) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of one kind, of which each sample's label can be read from its input."""
    draw = torch.Generator().manual_seed(0)
    classes = torch.arange(N) % 4
    images = 40 * torch.rand(N, 1, 8, 8, generator=draw) + classes[:, None, None, None]
    images[torch.arange(N), 0, classes] += 60
    table = torch.rand(N, 3, generator=draw) * torch.tensor([1.0, 1.0, 1e6])  # the last column tells nothing
    masks = torch.rand(N, 8, 8, generator=draw).argsort(0).remainder(2)
    return {
        "classes": (images.byte(), classes),
        "several classes": (images, torch.nn.functional.one_hot(classes, 4)),
        "numbers": (table, table[:, 0] + table[:, 1]),
        "masks": (200 * torch.rand(N, 3, 8, 8, generator=draw) + 50 * masks[:, None], masks),
    }[kind]


@pytest.mark.parametrize("kind", ["classes", "several classes", "numbers", "masks"])
def test_only_shuffled_labels_do_not_depend_on_inputs(kind: str) -> None:
    inputs, labels = related(kind)
    assert labels_depend_on_inputs(inputs, labels).ok is True
    results = [
        labels_depend_on_inputs(inputs, labels[torch.randperm(N, generator=torch.Generator().manual_seed(seed))]).ok
        for seed in range(5)
    ]
    assert results == [False] * 5


def test_few_samples_cannot_tell() -> None:
    inputs, labels = related("classes")
    assert labels_depend_on_inputs(inputs[:99], labels[:99]).ok is None


def test_labels_are_found_in_batches_of_two_tensors_alone() -> None:
    x, y = torch.rand(4, 3), torch.arange(4)
    found = inputs_and_labels([{"image": x, "label": y, "name": ["a"] * 4}, {"image": x, "label": y, "name": []}])
    assert found is not None
    assert torch.equal(found[0], torch.cat([x, x]))
    assert torch.equal(found[1], torch.cat([y, y]))
    assert inputs_and_labels([[x, y, y]]) is None
    assert inputs_and_labels([x]) is None
    assert inputs_and_labels([(y, x)]) is None
    assert inputs_and_labels([(x, y), (torch.rand(4, 5), y)]) is None
