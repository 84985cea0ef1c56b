"""Augmentations of a whole batch on its device, each sample drawn on its own. Add one: an nn.Module of images alone."""

from src.data.augment.color import ColorJitter, GaussianNoise
from src.data.augment.erasing import Cutout, RandomErasing
from src.data.augment.flip_crop import AlternatingFlip, RandomCrop, RandomFlip
from src.data.augment.geometry import RandomAffine, RandomResizedCrop
from src.data.augment.per_sample import PerSample
from src.data.augment.policy import RandAugment, TrivialAugment

__all__ = [
    "AlternatingFlip",
    "ColorJitter",
    "Cutout",
    "GaussianNoise",
    "PerSample",
    "RandAugment",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomFlip",
    "RandomResizedCrop",
    "TrivialAugment",
]
