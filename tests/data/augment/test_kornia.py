"""kornia's augmentations see images in [0, 1], move masks along and draw from torch's generator alone."""

import random
import sys

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from src import UserError
from src.data.augment.wrappers import Kornia
from src.data.loading.transform import augment_batch

N, SIZE = 64, 16
MOVING = {
    "RandomPerspective": {"distortion_scale": 0.7, "p": 1.0},
    "RandomElasticTransform": {"kernel_size": (7, 7), "sigma": (2.0, 2.0), "alpha": (1.0, 1.0), "p": 1.0},
    "RandomRotation": {"degrees": 40.0, "p": 1.0},
}
VALUES = {
    "RandomGaussianBlur": {"kernel_size": (3, 3), "sigma": (0.3, 2.0), "p": 1.0},
    "RandomMotionBlur": {"kernel_size": 5, "angle": 90.0, "direction": 1.0, "p": 1.0},
    "RandomMedianBlur": {"kernel_size": (3, 3), "p": 0.5},
    "ColorJiggle": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "p": 1.0},
    "RandomSaltAndPepperNoise": {"amount": (0.1, 0.3), "p": 1.0},
    "RandomPlasmaShadow": {"p": 1.0},
    "RandomJPEG": {"p": 1.0},
}
every = pytest.mark.parametrize("name", [*MOVING, *VALUES])
moving = pytest.mark.parametrize("name", MOVING)


def build(name: str, **settings: float) -> Kornia:
    augmentation = pytest.importorskip("kornia.augmentation")
    return Kornia([getattr(augmentation, name)(**((MOVING | VALUES).get(name, {}) | settings))])


def batch() -> tuple[Tensor, Tensor]:
    """Return images with a white block each, and masks with class 3 in that block."""
    corners = torch.randint(2, SIZE - 6, (N, 2), generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(N, SIZE, SIZE, dtype=torch.long)
    for mask, (row, column) in zip(masks, corners.tolist(), strict=True):
        mask[row : row + 4, column : column + 4] = 3
    return masks[:, None].eq(3).byte().mul(255).expand(-1, 3, -1, -1), masks


def seeded(augment: nn.Module, images: Tensor, masks: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    moved, moved_masks = augment_batch(augment, images, masks, torch.arange(len(images)), 0)
    return moved if masks is None else (moved, moved_masks)


@every
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shape_range_and_dtype_are_kept(name, dtype):
    images = batch()[0].to(dtype)
    before = images.clone()
    result = seeded(build(name), images)
    assert (result.shape, result.dtype) == (images.shape, dtype)
    assert ((result >= 0) & (result <= 255)).all()
    assert images.equal(before)
    assert not result.equal(images)


def test_uint8_images_become_the_rounded_result_for_0_to_1():
    images = torch.randint(256, (N, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).byte()
    result = seeded(build("RandomGaussianBlur"), images)
    torch.manual_seed(1)
    expected = build("RandomGaussianBlur").transforms(images / 255)
    assert (result - expected * 255).abs().max() <= 0.501


@every
def test_each_sample_has_its_own_draw(name):
    images, _ = batch()
    copies = images[:1].expand(N, -1, -1, -1)
    distinct = len(seeded(build(name), copies).flatten(1).unique(dim=0))
    assert distinct == 2 if name == "RandomMedianBlur" else distinct > 20


@every
def test_the_torch_generator_decides_everything_that_is_drawn(name):
    augment, (images, masks) = build(name), batch()
    first = seeded(augment, images)
    state, python = torch.get_rng_state(), random.getstate()
    following = augment(images)
    torch.set_rng_state(state)
    assert build(name)(images).equal(following)  # as in a resumed process
    assert seeded(augment, images, masks)[0].equal(first)
    assert torch.get_rng_state().equal(state)
    assert random.getstate() == python


@moving
def test_a_mask_follows_its_block(name):
    images, masks = batch()
    moved, moved_masks = seeded(build(name), images, masks)
    assert moved_masks.ne(masks).any((1, 2)).float().mean() > 0.8
    white, inside = moved[:, 0] > 128, moved_masks == 3
    overlap = (white & inside).sum() / (white | inside).sum()
    assert overlap > 0.85  # they differ by interpolation at the border of the block


@moving
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_masks_keep_their_dtype_and_their_classes(name, dtype):
    classes = torch.tensor([0, 1, 255] if dtype == torch.uint8 else [0, -100, 30_000], dtype=dtype)
    _, masks = seeded(build(name), batch()[0], classes[torch.randint(3, (N, SIZE, SIZE))])
    assert masks.dtype == dtype
    assert masks.unique().equal(classes.sort().values)


@pytest.mark.parametrize("name", VALUES)
def test_transforms_of_values_leave_masks_as_they_are(name):
    images, masks = batch()
    assert seeded(build(name), images, masks)[1].equal(masks)


def test_a_transform_without_masks_is_refused_for_masks():
    with pytest.raises(UserError, match="Kornia: one of RandomThinPlateSpline does not support masks"):
        seeded(build("RandomThinPlateSpline", p=1.0), *batch())


def test_a_missing_kornia_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    with pytest.raises(UserError, match=r"^kornia is not installed: run make extras$"):
        Kornia([])


@every
def test_a_config_names_transforms_of_kornia(name):
    build(name)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--augment", type=list[nn.Module] | None)
    settings = {
        key: list(value) if isinstance(value, tuple) else value for key, value in (MOVING | VALUES)[name].items()
    }
    transform = {"class_path": f"kornia.augmentation.{name}", "init_args": settings}
    named = {"class_path": f"{Kornia.__module__}.Kornia", "init_args": {"transforms": [transform]}}
    config = parser.parse_string(parser.dump(parser.parse_object({"augment": [named]})))
    (augment,) = parser.instantiate(config).augment
    images, _ = batch()
    assert seeded(augment, images).equal(seeded(build(name), images))
