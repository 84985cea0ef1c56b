"""DataModule: splits, normalization, and what a checkpoint stores of both."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from src import UserError
from src.cli import main
from src.data import DataModule, Digits
from src.data.loading.files_loader import FilesLoader

TARGETS = torch.tensor([0] * 41 + [1] * 26 + [2] * 13)[torch.randperm(80, generator=torch.Generator().manual_seed(0))]


class SmallData(DataModule):
    """80 training and 9 test samples; the first pixel of each image is its index."""

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


class WithVal(SmallData):
    """The same data with a separate validation set."""

    def load_val(self) -> tuple[Tensor, Tensor]:
        return self.load(train=False)


def small_data(**settings) -> SmallData:
    data = SmallData(**settings)
    data.setup("fit")
    return data


def indices(data: DataModule) -> tuple[Tensor, Tensor]:
    return data.splits["train"].index, data.splits["val"].index


def all_images(loader) -> Tensor:
    return torch.cat([batch[0] for batch in loader])


def test_each_fold_is_stratified():
    for fold in range(4):
        _, val = indices(small_data(fold=fold))
        for target, count in enumerate(TARGETS.bincount().tolist()):
            assert (TARGETS[val] == target).sum() in (count // 4, count // 4 + 1)


def test_folds_are_disjoint_and_complete():
    folds = [indices(small_data(fold=fold)) for fold in range(4)]
    assert torch.cat([val for _, val in folds]).sort().values.equal(torch.arange(80))
    for train, val in folds:
        assert torch.cat([train, val]).sort().values.equal(torch.arange(80))


def test_the_split_depends_only_on_split_seed():
    torch.manual_seed(1)
    first = small_data()
    torch.manual_seed(2)
    again, other = small_data(), small_data(split_seed=1)
    assert first.split_hash == again.split_hash != other.split_hash
    assert indices(first)[1].equal(indices(again)[1])
    assert not indices(first)[1].equal(indices(other)[1])


def test_a_separate_validation_set_keeps_all_training_samples():
    data = WithVal()
    data.setup("fit")
    assert len(all_images(data.train_dataloader())) == 80
    assert len(all_images(data.val_dataloader())) == 9


def test_normalized_training_images_have_mean_0_and_std_1():
    images = all_images(small_data().train_dataloader())
    assert images.mean((0, 2, 3)).allclose(torch.zeros(2), atol=1e-5)
    assert images.std((0, 2, 3), correction=0).allclose(torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_splits_use_the_training_normalization(split):
    data = small_data()
    data.setup("test")
    train, val = indices(data)
    raw, raw_test = data.load(train=True)[0].double(), data.load(train=False)[0].double()
    mean = raw[train].mean((0, 2, 3), keepdim=True)
    std = raw[train].std((0, 2, 3), correction=0, keepdim=True)
    expected = ((raw[val] if split == "val" else raw_test) - mean) / std
    assert all_images(getattr(data, f"{split}_dataloader")()).double().allclose(expected, atol=1e-5)


def test_fit_and_validate_do_not_load_the_test_set():
    data = small_data()
    data.setup("validate")
    assert data.loaded == ["train"]


def test_only_training_batches_are_augmented():
    data = small_data(augment=[nn.Threshold(254, 0)])  # all pixels black
    assert all_images(data.train_dataloader()).var((0, 2, 3)).max() == 0
    assert all_images(data.val_dataloader()).var((0, 2, 3)).min() > 0


def test_only_training_batches_are_shuffled():
    data = small_data()
    shuffled, kept = (
        torch.cat([targets for _, targets in loader]) for loader in (data.train_dataloader(), data.val_dataloader())
    )
    train, val = indices(data)
    assert kept.equal(TARGETS[val])
    assert not shuffled.equal(TARGETS[train])


def test_a_checkpoint_restores_the_normalization_without_the_training_set():
    trained, fresh = small_data(), SmallData()
    trained.setup("test")
    fresh.setup("test")
    fresh.load_state_dict(json.loads(json.dumps(trained.state_dict())))
    assert all_images(fresh.test_dataloader()).equal(all_images(trained.test_dataloader()))
    assert fresh.loaded == ["test"]


def test_image_files_are_predicted_without_a_dataset(tmp_path):
    image = torch.tensor([[[10, 20], [30, 40]]], dtype=torch.uint8)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(image[0].numpy()).save(path)
    fresh = SmallData()
    fresh.load_state_dict(
        {"class_names": ["cat"], "shape": [1, 2, 2], "split_hash": "x", "mean": [20.0], "std": [10.0]}
    )
    (batch,) = FilesLoader(paths, fresh)
    assert batch.equal((image.float() - 20).div(10).expand(2, 1, 2, 2))
    assert (fresh.class_names, fresh.loaded) == (["cat"], [])


def test_the_test_set_is_predicted_in_its_order():
    data = small_data()
    data.setup("predict")
    predicted = next(iter(data.predict_dataloader()))
    assert len(predicted) == 9
    assert predicted[:, 0, 0, 0].diff().gt(0).all()  # the first pixel is the index


def test_batches_depend_on_the_seed_of_the_data_module():
    first, again, other = small_data(), small_data(), small_data()
    first.seed = again.seed = 3
    batches = [all_images(data.train_dataloader()) for data in (first, again, other)]
    assert batches[0].equal(batches[1])
    assert not batches[0].equal(batches[2])


def test_a_checkpoint_does_not_replace_the_seed_which_the_config_sets():
    trained, resumed = small_data(), SmallData()
    trained.seed, resumed.seed = 5, 6
    resumed.load_state_dict(trained.state_dict())
    assert resumed.seed == 6


@pytest.mark.parametrize("change", [{"fold": 1}, {"folds": 5}, {"split_seed": 1}])
def test_a_checkpoint_of_another_split_is_refused(change):
    with pytest.raises(UserError, match="trained on another split"):
        small_data(**change).load_state_dict(small_data().state_dict())


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
        SmallData(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 61}, "batch_size must be at most 60, the number of training samples, got 61"),
        ({"folds": 81}, "folds must be at most 41, the size of the largest training class, got 81"),
        ({"folds": 50}, "folds must be at most 41, the size of the largest training class, got 50"),
    ],
)
def test_too_few_samples_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        small_data(**settings)


def test_a_given_mean_and_std_replace_the_measured_ones_and_stay() -> None:
    data, measured = small_data(normalize={"mean": [10, 20], "std": [2, 4]}), small_data()
    images = data.splits["val"].images[data.splits["val"].index].float()
    expected = (images - torch.tensor([10, 20]).view(2, 1, 1)) / torch.tensor([2, 4]).view(2, 1, 1)
    assert all_images(data.val_dataloader()).equal(expected)
    assert data.normalize.typical.equal(measured.normalize.typical)
    restored = SmallData()
    restored.load_state_dict(data.state_dict())
    assert restored.normalize.mean.flatten().tolist() == [10, 20]


@pytest.mark.parametrize(
    "given", [{"mean": [0.5, 0.5], "std": [0.2, 0.2]}, {"mean": [9.0], "std": [9.0]}, {"mean": [9, 9], "sdt": [9, 9]}]
)
def test_a_scale_of_other_units_or_channels_is_rejected(given: dict[str, list[float]]) -> None:
    with pytest.raises(UserError, match=r"normalize must be mean and std of 2 channels in pixel values \[0, 255\]"):
        small_data(normalize=given)


class Pixels:
    """Images that say nothing of themselves but their number."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.images[index]


def test_images_need_only_a_length_and_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Digits()
    plain.setup("fit")
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, train: (Pixels(load(self, train)[0]), load(self, train)[1]))
    data = Digits()
    data.setup("fit")
    assert data.split_hash == plain.split_hash
    assert data.normalize is not None
    assert plain.normalize is not None
    assert torch.equal(data.normalize.mean, plain.normalize.mean)
    main(["shard", "--config=configs/digits.yaml", "--output=shards"])
    assert json.loads(Path("shards/manifest.json").read_text(encoding="utf-8"))["shape"] == [1, 8, 8]
