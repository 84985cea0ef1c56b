"""Masks move with their images, and the images move as they do without masks."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from src import data
from src.data.loading.transform import augment_batch

COPYING = [
    data.RandomFlip(),
    data.AlternatingFlip(),
    data.RandomCrop(3),
    data.PerSample(v2.RandomAffine(30, (0.2, 0.2), (0.7, 1.4), 20)),
]
BLENDING = [
    *(data.RandomAffine(30, 0.2, (0.7, 1.4), 20, padding_mode=mode) for mode in ("reflection", "zeros", "border")),
    data.RandomResizedCrop(),
]
MOVING = [*COPYING, *BLENDING, data.ProgressiveResize([9])]
VALUES = [data.ColorJitter(0.5), data.GaussianNoise(0.1), data.RandomErasing(1.0), data.Cutout(4)]
N, ROWS, COLUMNS = 200, 9, 12
INDEX = torch.arange(N)


def name(transform: nn.Module) -> str:
    return type(transform).__name__


def marked() -> tuple[Tensor, Tensor]:
    """Return black images with one white pixel each, and masks with class 3 at that pixel."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(N, ROWS * COLUMNS, dtype=torch.long)
    masks[INDEX, torch.randint(ROWS * COLUMNS, (N,), generator=generator)] = 3
    masks = masks.view(N, ROWS, COLUMNS)
    return masks[:, None].eq(3).byte() * 255, masks


def seeded(transform: nn.Module, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor | None]:
    torch.manual_seed(1)
    return augment_batch(transform, images, masks, INDEX, 0)


@pytest.mark.parametrize("transform", COPYING, ids=name)
def test_a_marked_pixel_is_copied_to_the_same_places(transform):
    images, masks = marked()
    moved, moved_masks = seeded(transform, images, masks)
    assert moved_masks.eq(3).equal(moved[:, 0] == 255)
    assert moved_masks.ne(masks).any((1, 2)).float().mean() > 0.3


@pytest.mark.parametrize("transform", BLENDING, ids=name)
def test_a_marked_pixel_is_where_the_image_is_brightest(transform):
    images, masks = marked()
    moved, moved_masks = seeded(transform, images, masks)
    values, inside = moved[:, 0], moved_masks == 3
    assert inside.any((1, 2)).float().mean() > 0.6
    assert values[inside].min() >= 63  # the nearest pixel has a bilinear weight of at least 1/4
    assert values[~inside].max() <= 128  # any other pixel has at most 1/2


def test_resized_masks_are_those_of_torchvision():
    masks = torch.randint(5, (N, 32, 16))
    images = masks[:, None].byte()
    for epoch, size in ((0, [20, 10]), (1, [24, 12]), (2, [32, 16])):
        moved, resized = augment_batch(data.ProgressiveResize([20, 24]), images, masks, INDEX, epoch)
        assert moved.shape == (N, 1, *size)
        assert resized.equal(functional.resize(masks, size, interpolation=InterpolationMode.NEAREST_EXACT))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("transform", MOVING, ids=name)
def test_images_and_random_draws_are_the_same_with_and_without_masks(transform, dtype):
    images = torch.randint(256, (N, 3, ROWS, COLUMNS), generator=torch.Generator().manual_seed(0)).to(dtype)
    alone, _ = seeded(transform, images, None)
    state = torch.get_rng_state()
    together, _ = seeded(transform, images, torch.zeros(N, ROWS, COLUMNS))
    assert together.equal(alone)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("transform", MOVING, ids=name)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int16])
def test_masks_keep_their_dtype_and_their_classes(transform, dtype):
    classes = torch.tensor([0, 1, 255] if dtype == torch.uint8 else [0, -100, 30_000], dtype=dtype)
    images, _ = marked()
    _, masks = seeded(transform, images, classes[torch.randint(3, (N, ROWS, COLUMNS))])
    assert masks.dtype == dtype
    assert masks.unique().equal(classes.sort().values)


@pytest.mark.parametrize("transform", VALUES, ids=name)
def test_transforms_of_values_leave_masks_as_they_are(transform):
    images, masks = marked()
    changed, same = seeded(transform, images, masks)
    assert not changed.equal(images)
    assert same is masks


@pytest.mark.parametrize("transform", [data.TrivialAugment(), data.RandAugment()], ids=name)
def test_policies_are_refused_for_masks(transform):
    with pytest.raises(ValueError, match=f"{name(transform)} cannot move masks"):
        seeded(transform, *marked())


def test_a_torchvision_transform_without_masks_says_so():
    with pytest.raises(TypeError, match="Mask"):
        seeded(data.PerSample(v2.AutoAugment()), *marked())


@pytest.mark.parametrize("transform", MOVING, ids=name)
def test_an_empty_batch_stays_empty(transform):
    images, masks = (values[:0] for values in marked())
    moved, moved_masks = augment_batch(transform, images, masks, INDEX[:0], 1)
    assert (moved.shape, moved_masks.shape) == ((0, 1, ROWS, COLUMNS), (0, ROWS, COLUMNS))


@pytest.mark.parametrize("transform", [t for t in MOVING if not isinstance(t, data.PerSample)], ids=name)
def test_no_value_is_read_back_from_the_device(transform):
    images, masks = (values.to("meta") for values in marked())
    moved, moved_masks = augment_batch(transform, images, masks, INDEX.to("meta"), 1)
    assert (moved.shape, moved_masks.shape) == (images.shape, masks.shape)
