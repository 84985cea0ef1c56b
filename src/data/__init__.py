"""Datasets and batch transforms. Add a dataset: subclass DataModule, implement ``load``, name the class in a YAML."""

from src.data.augment.color import ColorJitter, GaussianNoise
from src.data.augment.erasing import Cutout, RandomErasing
from src.data.augment.flip_crop import AlternatingFlip, RandomCrop, RandomFlip
from src.data.augment.geometry import ProgressiveResize, RandomAffine, RandomResizedCrop
from src.data.augment.mix import CutMix, MixUp
from src.data.augment.policy import RandAugment, TrivialAugment
from src.data.augment.wrappers import Kornia, PerSample
from src.data.base import DataModule
from src.data.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST, ImbalancedMNIST
from src.data.diabetes import Diabetes
from src.data.digits import Digits
from src.data.folder import ImageFolder
from src.data.made import DigitMosaics, DigitScenes, RotatedDigits, UnseenDigits
from src.data.made_mnist import MNISTScenes, RotatedMNIST, UnseenMNIST
from src.data.mask_folder import MaskFolder
from src.data.shard_folder import ShardFolder
from src.data.table import Table
