"""Digits have a fixed test set; datasets of torchvision are read as they are, with an error if they are missing."""

import pickle
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import cifar

from src import UserError
from src.data import CIFAR10, CIFAR100, MNIST, Digits, FashionMNIST

REAL_MNIST = Path(__file__).parents[2].parent / "shared/data/mnist"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="needs MNIST")
def test_mnist_on_disk_needs_no_network():
    data = MNIST(root=str(REAL_MNIST))
    data.prepare_data()
    images, targets = data.load(train=False)
    assert (images.shape, images.dtype, targets.dtype) == ((10000, 1, 28, 28), torch.uint8, torch.int64)
    assert targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert (images[0] > 0).any()
    assert data.class_names[:3] == ["zero", "one", "two"]
    assert len(data.load(train=True)[1]) == 60000


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        (MNIST, "MNIST/raw/*-ubyte"),
        (FashionMNIST, "FashionMNIST/raw/*-ubyte"),
        (CIFAR10, "cifar-10-python.tar.gz"),
        (CIFAR100, "cifar-100-python.tar.gz"),
    ],
)
def test_a_missing_dataset_is_named_with_folder_files_and_remedies(tmp_path, kind, file):
    with pytest.raises(UserError) as caught:
        kind(root="absent").prepare_data()
    message = str(caught.value)
    assert "\n" not in message
    for text in (kind.__name__, str(tmp_path / "absent"), file, "--data.root", "configs/digits.yaml"):
        assert text in message


def write_cifar(folder: Path, source: type, label: str, names: list[str]) -> np.ndarray:
    """Write three images per file in torchvision's format; return the training images."""
    pixels = np.random.default_rng(0).integers(256, size=(3, 3 * 32 * 32), dtype=np.uint8)
    folder /= source.base_folder
    folder.mkdir()
    for name, _ in source.train_list + source.test_list:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, label: [0, 1, 0]}))
    (folder / source.meta["filename"]).write_bytes(pickle.dumps({source.meta["key"]: names}))
    return np.concatenate([pixels] * len(source.train_list))


@pytest.mark.parametrize(("kind", "label"), [(CIFAR10, "labels"), (CIFAR100, "fine_labels")])
def test_cifar_is_read_as_color_planes(tmp_path, monkeypatch, kind, label):
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)  # checksums
    pixels = write_cifar(tmp_path, kind.dataset, label, ["apple", "aquarium_fish"])
    data = kind(root=".")
    images, targets = data.load(train=True)
    assert images.equal(torch.from_numpy(pixels).view(-1, 3, 32, 32))
    assert (images.dtype, images.is_contiguous(), targets.dtype) == (torch.uint8, True, torch.int64)
    assert targets[:3].tolist() == [0, 1, 0]
    assert data.class_names == ["apple", "aquarium_fish"]


def test_training_and_test_set_together_are_all_digits():
    sets = [Digits().load(train) for train in (True, False)]
    assert [tuple(images.shape) for images, _ in sets] == [(1437, 1, 8, 8), (360, 1, 8, 8)]
    assert all((images.dtype, targets.dtype) == (torch.uint8, torch.int64) for images, targets in sets)
    ours = Counter(
        (image.numpy().tobytes(), int(target))
        for images, targets in sets
        for image, target in zip(images, targets, strict=True)
    )
    theirs = Counter(
        (bytes(int(level * 255 / 16 + 0.5) for level in pixels), int(target))
        for pixels, target in zip(*load_digits(return_X_y=True), strict=True)
    )
    assert ours == theirs


def test_the_test_set_is_stratified_and_fixed():
    first, second = Digits(), Digits(split_seed=7)
    torch.manual_seed(3)
    (images, targets), (again, _) = first.load(train=False), second.load(train=False)
    assert images.equal(again)
    assert set(targets.bincount().tolist()) <= {34, 35, 36, 37}  # a fifth of 174 to 183
    assert first.class_names == [str(digit) for digit in range(10)]


def test_a_root_is_refused_for_digits():
    with pytest.raises(UserError, match=r"root must stay data, because Digits come with scikit-learn, got photos; .*"):
        Digits(root="photos")
