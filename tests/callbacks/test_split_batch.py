"""Batches of any structure are split by sample."""

from collections import UserDict, namedtuple

import pytest
import torch

from src import UserError
from src.callbacks.split_batch import num_samples, split_batch

Pair = namedtuple("Pair", ["images", "targets"])


@pytest.mark.parametrize(
    ("count", "lengths"), [(1, [7]), (2, [3, 4]), (3, [2, 2, 3]), (7, 7 * [1]), (50, 7 * [1])], ids=str
)
def test_micro_batches_have_almost_equal_lengths(count, lengths):
    micro_batches = split_batch(torch.arange(7), count)
    assert [len(micro_batch) for micro_batch in micro_batches] == lengths
    assert torch.cat(micro_batches).tolist() == [*range(7)]


def test_nested_batches_keep_their_structure():
    x, scale = torch.arange(12).view(6, 2), torch.tensor(3)
    names, places = list("abcdef"), tuple("uvwxyz")
    batch = {"in": [x, {"scale": scale, "names": names}], "out": Pair(x[:, 0], (x[:, 1], places)), "n": 6, "no": None}
    first, second = split_batch(batch, 2)
    assert first["in"][0].equal(x[:3])
    assert second["in"][0].equal(x[3:])
    assert second["in"][1] == {"scale": scale, "names": ["d", "e", "f"]}
    assert isinstance(second["out"], Pair)
    assert second["out"].images.equal(x[3:, 0])
    assert second["out"].targets[0].equal(x[3:, 1])
    assert second["out"].targets[1] == ("x", "y", "z")
    assert (second["n"], second["no"]) == (6, None)
    assert batch["in"][1]["names"] == names


def test_two_tensors_of_two_samples_are_split_by_sample():
    first, second = split_batch([torch.tensor([1, 2]), torch.tensor([3, 4])], 2)
    assert [value.tolist() for value in first] == [[1], [3]]
    assert [value.tolist() for value in second] == [[2], [4]]


def test_dictionaries_keep_their_class():
    (first, _) = split_batch(UserDict(x=torch.arange(4)), 2)
    assert isinstance(first, UserDict)
    assert first["x"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("batch", "lengths"), [([torch.zeros(2), torch.zeros(5)], r"\[2, 5\]"), ({"names": ["a"]}, r"\[\]")], ids=str
)
def test_batches_without_one_common_length_are_refused(batch, lengths):
    with pytest.raises(UserError, match=f"needs a batch of tensors of one length, got lengths {lengths}"):
        num_samples(batch)
