"""Every config trains: on made-up data of the right shape, and MNIST also on the real images."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from src import data as datasets
from src.cli import main
from tests.conftest import heavy
from tests.test_docs import CONFIGS, ROOT

REAL_MNIST = ROOT.parent / "shared/data/mnist"
SHAPES = {  # of an image, and the number of classes
    "MNIST": ((1, 28, 28), 10),
    "FashionMNIST": ((1, 28, 28), 10),
    "CIFAR10": ((3, 32, 32), 10),
    "CIFAR100": ((3, 32, 32), 100),
}
SMALLER = ["--data.folds=10", "--data.batch_size=100"]

every_config = pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
every_cifar10_config = pytest.mark.parametrize(
    "file", [file for file in CONFIGS if re.match(r"cifar10(?!0|_transfer)", file.name)], ids=lambda file: file.stem
)


def write_images(folder: Path) -> None:
    """Write images of ten classes, as ImageFolder reads them."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 3)):
        for name in "abcdefghij":
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 255, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def replace_download(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a dataset of torchvision load random images instead."""
    shape, num_classes = SHAPES[name]

    def load(self: datasets.DataModule, train: bool) -> tuple[Tensor, Tensor]:
        self.class_names = [str(i) for i in range(num_classes)]
        count = max(600, 12 * num_classes) if train else 100
        generator = torch.Generator().manual_seed(int(train))  # the same images for a teacher and its student
        images = torch.randint(0, 255, (count, *shape), dtype=torch.uint8, generator=generator)
        return images, torch.arange(count) % num_classes

    monkeypatch.setattr(getattr(datasets, name), "prepare_data", lambda _: None)
    monkeypatch.setattr(getattr(datasets, name), "load", load)


@pytest.mark.parametrize(
    "file", heavy(CONFIGS, "cifar10_96", "cifar100", "cifar10.yaml", "mnist_"), ids=lambda file: file.stem
)
def test_a_config_trains_and_tests_two_batches(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    name, args = settings["data"]["class_path"].rsplit(".", 1)[1], []
    if "timm" in file.read_text(encoding="utf-8"):
        pytest.importorskip("timm")
        args += ["--data.size=32", "--model.rename=null"]
    for downloaded in SHAPES:  # also by what is made from them
        replace_download(downloaded, monkeypatch)
    if name.startswith("CIFAR"):
        args += SMALLER
    if name == "ImageFolder":
        write_images(Path("images"))
        args += ["--data.root=images"]
    if teacher := settings["model"].get("init_args", {}).get("teacher"):
        config = f"--config=configs/{Path(teacher).parent.name}.yaml"
        main(["fit", config, *args, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--test=false"])
    experiment = main(["fit", f"--config={file}", *args, "--trainer.fast_dev_run=2"])
    assert experiment.trainer.global_step == 2


@pytest.mark.heavy
def test_a_few_photos_per_class_are_enough_for_the_folder_config(capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("cat", 7), ("dog", 4), ("eel", 3)):
        Path("photos", name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 30, 3), np.uint8)).save(
                f"photos/{name}/{i}.jpg"
            )
    args = ["--data.root=photos", "--trainer.max_epochs=2", "--model.net.depth=18", "--data.size=32"]
    x = main(["fit", "--config=configs/folder.yaml", *args])
    out = capsys.readouterr().out
    assert re.match(r"images +train +val +test\ncat +\d+ +\d+ +1\ndog .*\neel .*\nall +\d+ +\d+ +3\n", out)
    assert "note    a class has only 2 training images, fewer than 5 folds\n" in out
    assert re.search(r"note    batch_size is \d, the number of training samples, instead of 32\n", out)
    assert (
        yaml.safe_load((x.run.path / "config.yaml").read_text(encoding="utf-8"))["model"]["init_args"]["num_classes"]
        == 3
    )
    main(["test", f"--run={x.run.path}"])


@every_cifar10_config
def test_the_jpeg_preset_changes_only_the_images(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = []
    for layers in ([], ["--config=configs/presets/cifar10_jpeg.yaml", "--data.root=images"]):
        with pytest.raises(SystemExit):
            main(["fit", f"--config={file}", *layers, "--print_config"])
        configs.append(yaml.safe_load(capsys.readouterr().out))
    download, jpeg = (config.pop("data") for config in configs)
    assert configs[0] == configs[1]
    assert jpeg["class_path"] == "src.data.ImageFolder"
    assert (jpeg["init_args"]["root"], jpeg["init_args"]["size"]) == ("images", 32)
    assert {key: jpeg["init_args"][key] for key in download["init_args"]} == download["init_args"] | {"root": "images"}


def test_the_jpeg_preset_trains() -> None:
    write_images(Path("images"))
    preset = ["--config=configs/presets/cifar10_jpeg.yaml", "--data.root=images"]
    experiment = main(["fit", "--config=configs/cifar10.yaml", *preset, *SMALLER, "--trainer.fast_dev_run=2"])
    assert isinstance(experiment.data, datasets.ImageFolder)
    assert experiment.trainer.global_step == 2


@every_config
def test_a_config_is_short_and_begins_with_the_seed(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 40
    assert next(iter(yaml.safe_load(file.read_text(encoding="utf-8")))) == "seed_everything"


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="needs MNIST")
def test_real_mnist_is_learned() -> None:
    args = [
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=150",
        "--model.warmup_steps=20",
        "--data.batch_size=64",
    ]
    experiment = main(["fit", "--config=configs/mnist.yaml", f"--data.root={REAL_MNIST}", *args])
    assert len(experiment.data.splits["train"]) == 55_000
    assert len(experiment.data.splits["test"]) == 10_000
    assert experiment.trainer.callback_metrics["test/accuracy"] > 0.95
