"""Numbers, masks and no targets: from ``load`` to the batch."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from src import UserError
from src.data import AlternatingFlip, ColorJitter, Digits, MixUp, RandomCrop, RandomFlip
from src.data.loading.splits import has_classes

INK = 100  # pixels above this value are class 1 of the masks


def numbers(_: Tensor, classes: Tensor) -> Tensor:
    """Digit of each image, (N,), float64."""
    return classes.double() / 9


def pairs(images: Tensor, classes: Tensor) -> Tensor:
    """Digit and mean brightness of each image, (N, 2), float32."""
    return torch.stack([classes / 9, images.float().mean((1, 2, 3)) / 255], 1)


def masks(images: Tensor, _: Tensor) -> Tensor:
    """Class 1 where there is ink, (N, H, W), uint8."""
    return (images[:, 0] > INK).byte()


def nothing(*_: Tensor) -> None:
    return None


class OtherTargets(Digits):
    """Digits with targets computed from images and classes."""

    def __init__(self, targets: Callable[[Tensor, Tensor], Tensor | None], **settings) -> None:
        super().__init__(**{"batch_size": 200, **settings})
        self.targets = targets

    def load(self, train: bool) -> tuple[Tensor, Tensor | None]:
        images, classes = super().load(train)
        self.class_names = None
        return images, self.targets(images, classes)


def prepared(targets: Callable, **settings) -> OtherTargets:
    data = OtherTargets(targets, **settings)
    for stage in ("fit", "test"):
        data.setup(stage)
    return data


def raw_pixels(data: OtherTargets, images: Tensor) -> Tensor:
    return images * data.normalize.std + data.normalize.mean


@pytest.mark.parametrize(("targets", "dtype"), [(numbers, torch.float32), (pairs, torch.float32), (masks, torch.int64)])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_targets_reach_the_batch_with_their_images(targets, dtype, split):
    data = prepared(targets)
    images, batched = (torch.cat(tensors) for tensors in zip(*getattr(data, f"{split}_dataloader")(), strict=True))
    assert batched.dtype == dtype
    everything, classes = Digits().load(train=split != "test")
    lookup = {image.numpy().tobytes(): i for i, image in enumerate(everything)}
    pixels = raw_pixels(data, images).round().byte()
    order = torch.tensor([lookup[image.numpy().tobytes()] for image in pixels])
    assert batched.equal(targets(everything, classes)[order].to(dtype))
    assert len(order) == len(order.unique()) == {"train": 1293, "val": 144, "test": 360}[split]


def test_masks_keep_their_type_in_memory():
    assert prepared(masks).splits["train"].targets.dtype == torch.uint8


def test_without_targets_batches_are_images_only():
    data = prepared(nothing)
    assert sum(len(images) for images in data.train_dataloader()) == 1293
    assert next(iter(data.val_dataloader())).shape == (144, 1, 8, 8)


@pytest.mark.parametrize("augment", [[RandomFlip()], [AlternatingFlip(), RandomCrop(2)], [ColorJitter(0.01)]])
def test_augmentation_keeps_images_and_masks_aligned(augment):
    data = prepared(masks, augment=augment)
    images, batched = next(iter(data.train_dataloader()))
    pixels = raw_pixels(data, images)[:, 0]
    clear = (pixels - INK).abs() > 5  # beyond the brightness change
    assert ((pixels > INK) == batched.bool())[clear].all()
    assert clear.float().mean() > 0.9


@pytest.mark.parametrize("targets", [numbers, pairs, masks, nothing])
def test_folds_without_classes_are_disjoint_and_complete(targets):
    folds = [prepared(targets, folds=4, fold=fold).splits for fold in range(4)]
    assert torch.cat([splits["val"].index for splits in folds]).sort().values.equal(torch.arange(1437))
    for splits in folds:
        assert torch.cat([splits["train"].index, splits["val"].index]).sort().values.equal(torch.arange(1437))
    assert not folds[0]["val"].index.equal(torch.arange(len(folds[0]["val"])))  # shuffled


@pytest.mark.parametrize("targets", [numbers, masks])
def test_a_checkpoint_restores_data_without_classes(targets):
    trained, fresh = prepared(targets), OtherTargets(targets)
    state = json.loads(json.dumps(trained.state_dict()))
    assert state["class_names"] is None
    fresh.setup("test")
    fresh.load_state_dict(state)
    for batch, again in zip(trained.test_dataloader(), fresh.test_dataloader(), strict=True):
        assert all(tensor.equal(other) for tensor, other in zip(batch, again, strict=True))
    with pytest.raises(UserError, match="trained on another split"):
        prepared(targets, fold=1).load_state_dict(state)


@pytest.mark.parametrize("targets", [numbers, pairs, masks, nothing])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": MixUp()}, r"^data\.mix needs classes as targets, integers \(N,\), and class_names: remove data\.mix$"),
        ({"sampling": "balanced"}, r"^data\.sampling=balanced needs classes .*: set data\.sampling=shuffled$"),
        ({"sampling": "weighted"}, r"^data\.sampling=weighted needs classes .*: set data\.sampling=shuffled$"),
        ({"folds": 1438}, "^folds must be at most 1437, the number of training samples, got 1438$"),
    ],
)
def test_settings_that_need_classes_are_refused_without_them(targets, settings, message):
    with pytest.raises(UserError, match=message):
        prepared(targets, **settings)


def test_an_unknown_transform_is_refused_for_masks_before_training():
    with pytest.raises(UserError, match=r"^data\.augment: Threshold cannot move masks") as caught:
        prepared(masks, augment=[nn.Threshold(254, 0)])
    assert "\n" not in str(caught.value)
    prepared(numbers, augment=[nn.Threshold(254, 0)])  # numbers do not move


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.tensor([0, 1]), True),
        (torch.tensor([0, 1], dtype=torch.uint8), True),
        (torch.tensor([0.0, 1.0]), False),
        (torch.zeros(2, 1, dtype=torch.long), False),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), False),
        (None, False),
    ],
)
def test_classes_are_integers_in_one_dimension(targets, expected):
    assert has_classes(targets) is expected


def test_the_classes_of_a_split_are_those_of_its_samples():
    data = Digits()
    data.setup("fit")
    for samples in data.splits.values():
        assert samples.classes.equal(samples.targets[samples.index])


def test_classes_of_any_integer_type_are_int64_in_the_batch():
    class Bytes(Digits):
        def load(self, train: bool) -> tuple[Tensor, Tensor]:
            images, classes = super().load(train)
            return images, classes.byte()

    data, expected = Bytes(sampling="balanced"), Digits(sampling="balanced")
    for each in (data, expected):
        each.setup("fit")
    assert data.split_hash == expected.split_hash
    assert data.splits["train"].classes.equal(expected.splits["train"].classes)
    for batch, other in zip(data.train_dataloader(), expected.train_dataloader(), strict=True):
        assert batch[1].dtype == torch.int64
        assert batch[1].equal(other[1])
