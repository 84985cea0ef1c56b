"""Splits, normalisation and what of both travels in a checkpoint."""

import json

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from src import UserError
from src.data import DataModule
from src.predictions import files_loader

TARGETS = torch.tensor([0] * 41 + [1] * 26 + [2] * 13)[torch.randperm(80, generator=torch.Generator().manual_seed(0))]


class Made(DataModule):
    """80 samples to train on and 9 to test on, each with a number of its own in its first pixel."""

    def __init__(self, targets: Tensor = TARGETS, **settings) -> None:
        super().__init__(**{"batch_size": 16, "folds": 4, **settings})
        self.targets, self.loaded = targets, []

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        self.loaded.append("train" if train else "test")
        self.class_names = ["cat", "dog", "eel"]
        targets = self.targets if train else torch.arange(9) % 3
        generator = torch.Generator().manual_seed(int(train))
        images = torch.randint(100, (len(targets), 2, 3, 3), generator=generator).byte()
        images[:, 1] += 100
        images[:, 0, 0, 0] = torch.arange(len(targets))
        return images, targets


class WithVal(Made):
    """The same with a validation set of its own."""

    def load_val(self) -> tuple[Tensor, Tensor]:
        return self.load(train=False)


def made(**settings) -> Made:
    data = Made(**settings)
    data.setup("fit")
    return data


def split(data: DataModule) -> tuple[Tensor, Tensor]:
    return data.parts["train"].index, data.parts["val"].index


def everything(loader) -> Tensor:
    return torch.cat([batch[0] for batch in loader])


def test_each_fold_is_stratified():
    for fold in range(4):
        _, val = split(made(fold=fold))
        for target, count in enumerate(TARGETS.bincount().tolist()):
            assert (TARGETS[val] == target).sum() in (count // 4, count // 4 + 1)


def test_folds_are_disjoint_and_cover_all():
    splits = [split(made(fold=fold)) for fold in range(4)]
    assert torch.cat([val for _, val in splits]).sort().values.equal(torch.arange(80))
    for train, val in splits:
        assert torch.cat([train, val]).sort().values.equal(torch.arange(80))


def test_the_split_depends_on_its_own_seed_alone():
    torch.manual_seed(1)
    first = made()
    torch.manual_seed(2)
    again, other = made(), made(split_seed=1)
    assert first.split_hash == again.split_hash != other.split_hash
    assert split(first)[1].equal(split(again)[1])
    assert not split(first)[1].equal(split(other)[1])


def test_a_validation_set_of_its_own_leaves_all_training_samples_to_training():
    data = WithVal()
    data.setup("fit")
    assert len(everything(data.train_dataloader())) == 80
    assert len(everything(data.val_dataloader())) == 9


def test_the_normalised_training_part_has_mean_0_and_deviation_1():
    images = everything(made().train_dataloader())
    assert images.mean((0, 2, 3)).allclose(torch.zeros(2), atol=1e-5)
    assert images.std((0, 2, 3), correction=0).allclose(torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("part", ["val", "test"])
def test_other_parts_are_normalised_like_the_training_part(part):
    data = made()
    data.setup("test")
    train, val = split(data)
    raw, raw_test = data.load(train=True)[0].double(), data.load(train=False)[0].double()
    mean = raw[train].mean((0, 2, 3), keepdim=True)
    std = raw[train].std((0, 2, 3), correction=0, keepdim=True)
    expected = ((raw[val] if part == "val" else raw_test) - mean) / std
    assert everything(getattr(data, f"{part}_dataloader")()).double().allclose(expected, atol=1e-5)


def test_fit_and_validate_do_not_load_the_test_set():
    data = made()
    data.setup("validate")
    assert data.loaded == ["train"]


def test_only_training_batches_are_augmented():
    data = made(augment=[nn.Threshold(254, 0)])  # all pixels black
    assert everything(data.train_dataloader()).var((0, 2, 3)).max() == 0
    assert everything(data.val_dataloader()).var((0, 2, 3)).min() > 0


def test_only_training_batches_are_shuffled():
    data = made()
    shuffled, kept = (
        torch.cat([targets for _, targets in loader]) for loader in (data.train_dataloader(), data.val_dataloader())
    )
    train, val = split(data)
    assert kept.equal(TARGETS[val])
    assert not shuffled.equal(TARGETS[train])


def test_a_checkpoint_normalises_alike_without_the_training_set():
    trained, fresh = made(), Made()
    trained.setup("test")
    fresh.setup("test")
    fresh.load_state_dict(json.loads(json.dumps(trained.state_dict())))
    assert everything(fresh.test_dataloader()).equal(everything(trained.test_dataloader()))
    assert fresh.loaded == ["test"]


def test_files_are_predicted_without_any_data_set(tmp_path):
    image = torch.tensor([[[10, 20], [30, 40]]], dtype=torch.uint8)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(image[0].numpy()).save(path)
    fresh = Made()
    fresh.load_state_dict(
        {"class_names": ["cat"], "shape": [1, 2, 2], "split_hash": "x", "mean": [20.0], "std": [10.0]}
    )
    (batch,) = files_loader(paths, fresh)
    assert batch.equal((image.float() - 20).div(10).expand(2, 1, 2, 2))
    assert (fresh.class_names, fresh.loaded) == (["cat"], [])


def test_the_test_set_is_predicted_in_its_order():
    data = made()
    data.setup("predict")
    assert len(next(iter(data.predict_dataloader()))) == 9


@pytest.mark.parametrize("change", [{"fold": 1}, {"folds": 5}, {"split_seed": 1}])
def test_a_checkpoint_of_another_split_is_refused(change):
    with pytest.raises(UserError, match="trained on another split"):
        made(**change).load_state_dict(made().state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"fold": 4}, r"fold must be in \[0, 4\), got 4"),
        ({"fold": -1}, r"fold must be in \[0, 4\), got -1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Made(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 61}, "batch_size must be at most 60, the training samples, got 61"),
        ({"folds": 81}, "folds"),
        ({"folds": 50}, "folds"),  # more than the samples of any class
    ],
)
def test_too_few_samples_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        made(**settings)
