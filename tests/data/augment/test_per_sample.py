"""A transform of one image is called with each image of a batch, and can be named in a config."""

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn
from torchvision.transforms import v2

from src.data.augment.wrappers import PerSample


def batch() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)


def test_images_are_transformed_one_after_the_other():
    images = batch()
    torch.manual_seed(1)
    result = PerSample(v2.AutoAugment())(images)
    torch.manual_seed(1)
    transform = v2.AutoAugment()
    assert result.equal(torch.stack([transform(image) for image in images]))


def test_float_images_are_scaled_to_0_and_1_for_torchvision():
    images = batch().float()
    torch.testing.assert_close(PerSample(v2.RandomInvert(p=1))(images), 255 - images)


@pytest.mark.parametrize("name", ["AutoAugment", "RandAugment", "TrivialAugmentWide", "ElasticTransform"])
def test_a_config_names_transforms_of_torchvision(name):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--augment", type=list[nn.Module] | None)
    transform = {"class_path": f"torchvision.transforms.v2.{name}"}
    named = {"class_path": f"{PerSample.__module__}.PerSample", "init_args": {"transform": transform}}
    config = parser.parse_string(parser.dump(parser.parse_object({"augment": [named]})))
    augment = parser.instantiate(config).augment[0]
    assert isinstance(augment.transform, getattr(v2, name))
    assert augment(batch()).shape == batch().shape
