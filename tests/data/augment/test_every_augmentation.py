"""Properties of all batch augmentations."""

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from src.data.augment.color import ColorJitter, GaussianNoise
from src.data.augment.erasing import Cutout, RandomErasing
from src.data.augment.flip_crop import RandomCrop, RandomFlip
from src.data.augment.geometry import RandomAffine, RandomResizedCrop
from src.data.augment.policy import RandAugment, TrivialAugment
from src.data.augment.wrappers import PerSample

AUGMENTATIONS = [
    RandomFlip(),
    RandomCrop(2),
    RandomAffine(20, 0.1, (0.8, 1.2), 10),
    RandomResizedCrop(),
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    GaussianNoise(0.1),
    RandomErasing(),
    Cutout(4),
    TrivialAugment(),
    RandAugment(),
    PerSample(v2.AutoAugment()),
]
every = pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda augment: type(augment).__name__)


def batch(n: int = 5, channels: int = 3) -> torch.Tensor:
    return torch.randint(256, (n, channels, 9, 12), generator=torch.Generator().manual_seed(0)).byte()


def seeded(augment: nn.Module, images: torch.Tensor, seed: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    return augment(images)


@every
@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shape_range_and_dtype_are_kept(augment, n, channels, dtype):
    images = batch(n, channels).to(dtype)
    before = images.clone()
    result = seeded(augment, images)
    assert result.shape == images.shape
    assert result.dtype == (torch.float32 if isinstance(augment, GaussianNoise) else dtype)
    assert ((result >= 0) & (result <= 255)).all()
    assert images.equal(before)  # they may be the dataset's own tensor


@every
def test_each_sample_has_its_own_draw(augment):
    copies = batch(1).expand(64, -1, -1, -1)
    results = seeded(augment, copies).flatten(1).unique(dim=0)
    assert len(results) == 2 if isinstance(augment, RandomFlip) else len(results) > 20


@every
def test_the_seed_decides_the_result(augment):
    images = batch(20)
    assert seeded(augment, images).equal(seeded(augment, images))
    assert not seeded(augment, images).equal(seeded(augment, images, seed=2))


@every
def test_the_memory_format_does_not_matter(augment):
    images = batch()
    last = images.to(memory_format=torch.channels_last)
    assert (seeded(augment, images).float() - seeded(augment, last).float()).abs().max() <= 1e-3


@every
def test_augmentations_have_no_parameters_or_buffers(augment):
    assert not [*augment.parameters(), *augment.buffers()]


@pytest.mark.parametrize("augment", AUGMENTATIONS[:-1], ids=lambda augment: type(augment).__name__)
def test_no_value_is_read_back_from_the_device(augment):
    images = batch().to("meta")  # which has no values to read
    result = augment(images)
    assert (result.device, result.shape) == (images.device, images.shape)


@pytest.mark.parametrize("augment", AUGMENTATIONS[:-3], ids=lambda augment: type(augment).__name__)
def test_compiled_augmentations_draw_the_same(augment):
    compiled, images = torch.compile(augment, backend="eager"), batch()
    assert seeded(compiled, images).equal(seeded(augment, images))
