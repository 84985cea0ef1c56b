"""ShardFolder: the data that were written, remote shards, and damage."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src import UserError
from src.cli import main
from src.data import DataModule, Digits, ImageFolder, ShardFolder
from tests.conftest import add_configs, refused

FOLDER = ["--config=configs/folder.yaml", "--data.size=6", "--data.augment=null", "--data.channels=1"]
SHARD = ["shard", *FOLDER, "--output=shards", "--shard_mb=0.005"]


@pytest.fixture(scope="session")
def _shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write pictures of noise, three classes, and their shards, once."""
    folder, draw = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    for i in range(90):
        split = "test" if i % 5 == 0 else "train"
        file = folder / f"data/{split}/{'abc'[i % 3]}/é {i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(256, size=(9, 9 + i % 3), dtype=np.uint8)).save(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        add_configs(folder)
        main(SHARD)
    return folder


@pytest.fixture
def shards(_shards: Path) -> Path:
    shutil.copytree(_shards / "data", "data")
    return shutil.copytree(_shards / "shards", Path("shards"))


def opened(root: str = "shards", **settings: Any) -> ShardFolder:
    return ShardFolder(**{"root": root, "batch_size": 8, "folds": 3, "num_workers": 0, **settings})


def batches(data: DataModule, split: str = "train") -> list[list[Any]]:
    data.setup("fit")
    data.setup("test")
    return [[values.tolist() for values in batch] for batch in data.loader(split, shuffle=split == "train")]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_shuffled_shards_give_the_batches_of_the_folder(shards: Path, split: str) -> None:  # noqa: ARG001
    folder = ImageFolder(size=6, channels=1, batch_size=8, folds=3, in_memory=False, num_workers=0)
    data = opened(sampling="shuffled")
    assert batches(data, split) == batches(folder, split)
    assert data.files == folder.files
    assert data.split_hash == folder.split_hash
    assert data.class_names == folder.class_names


@pytest.mark.parametrize("workers", [1, 2])
def test_windowed_batches_are_the_same_for_any_number_of_workers(shards: Path, workers: int) -> None:  # noqa: ARG001
    alone = batches(opened())
    assert batches(opened(num_workers=workers)) == alone
    data = opened()
    data.setup("fit")
    (read,) = [torch.cat([*data.train_dataloader().sampler]).sort().values]
    assert read.tolist() == [*range(len(data.splits["train"]))]


def test_the_shards_are_zip_files_of_the_pictures(shards: Path) -> None:
    for file in shards.glob("train-*.zip"):
        shutil.unpack_archive(file, "unpacked")
    names = sorted(str(path.relative_to("unpacked")) for path in Path("unpacked").rglob("*.png"))
    assert len(names) == 72
    assert len([*shards.glob("train-*.zip")]) > 2
    for name in names:
        assert Path("unpacked", name).read_bytes() == Path("data", name).read_bytes()


def test_remote_shards_are_downloaded_once_and_the_oldest_deleted(shards: Path) -> None:
    expected = batches(opened())
    remote = f"file://{shards.absolute()}"
    assert batches(opened(remote, cache="cache")) == expected
    (cache,) = Path("cache").iterdir()
    shutil.move("shards", "gone")
    with pytest.raises(UserError, match=r"shards/manifest\.json is missing"):
        opened(remote, cache="cache").setup("fit")
    shutil.move("gone", "shards")
    largest = max(file.stat().st_size for file in cache.glob("*.zip"))
    for file in cache.glob("*.zip"):
        file.unlink()
    assert batches(opened(remote, window=2, cache="cache", cache_gb=3 * largest / 1e9)) == batches(opened(window=2))
    assert sum(file.stat().st_size for file in cache.glob("*.zip")) <= 3 * largest


def test_other_shards_at_an_address_are_not_taken_for_cached_ones(shards: Path) -> None:
    remote = f"file://{shards.absolute()}"
    before = batches(opened(remote))
    for picture in Path("data/train/a").iterdir():
        Image.fromarray(255 - np.array(Image.open(picture))).save(picture)
    shutil.rmtree(shards)
    main(SHARD)
    after = batches(opened(remote))
    assert after != before
    assert after == batches(opened())


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[80] ^= 4  # in the first picture
    file.write_bytes(content)


@pytest.mark.parametrize("address", ["shards", "file://{}/shards"])
@pytest.mark.parametrize(("damage", "reason"), [(truncate, "damaged"), (flip, "damaged"), (Path.unlink, "missing")])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_named(shards: Path, address: str, damage: Any, reason: str, workers: int) -> None:
    file = sorted(shards.glob("train-*.zip"))[1]
    damage(file)
    data = opened(address.format(Path.cwd()), num_workers=workers)
    with pytest.raises(UserError, match=f"{file.name} is {reason}"):
        _ = batches(data), batches(data, "val")


@pytest.mark.parametrize("name", ["train-index.npz", "train-targets.npy"])
def test_a_damaged_index_is_named(shards: Path, name: str) -> None:
    content = bytearray((shards / name).read_bytes())
    content[-1] ^= 1
    (shards / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged: its SHA-256"):
        opened().setup("fit")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"../x.zip": {"bytes": 1, "sha256": ""}}}'])
def test_another_manifest_is_refused(shards: Path, text: str) -> None:
    (shards / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"shards/manifest\.json is no manifest of shards"):
        opened().setup("fit")


def test_shards_of_other_classes_than_the_checkpoint_are_refused(shards: Path) -> None:  # noqa: ARG001
    data = opened()
    data.setup("fit")
    state = data.state_dict() | {"class_names": ["a", "b", "d"]}
    with pytest.raises(UserError, match=r"^shards must have the checkpoint's classes; not in both: c, d$"):
        opened().load_state_dict(state)


def test_a_cache_smaller_than_the_window_is_refused(shards: Path) -> None:
    data = opened(f"file://{shards.absolute()}", cache_gb=1e-6)
    with pytest.raises(UserError, match=r"cache_gb must be at least 0\.0000\d+, for \d shards of the window"):
        data.setup("fit")


@pytest.mark.parametrize("settings", [{"window": 0}, {"size": 0}, {"num_workers": -1}, {"cache_gb": 0}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(settings))} must be"):
        ShardFolder(**settings)


def test_masks_stay_with_their_images() -> None:
    for i in range(12):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[:, i % 8] = 1
        for kind, values in (("images", 255 * pixels), ("masks", pixels)):
            Path("own", kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(f"own/{kind}/{i}.png")
    data = ["--data=src.data.MaskFolder", "--data.root=own", "--data.size=8", "--data.classes=[floor, line]"]
    main(["shard", "--config=configs/digits_masks.yaml", *data, "--data.channels=1", "--data.batch_size=4"])
    read = opened("shards", folds=2)
    read.setup("fit")
    for images, masks in (read.splits["train"][torch.arange(4)][1:], read.splits["val"][torch.arange(4)][1:]):
        assert masks.equal((images[:, 0] > 0).byte())
    assert read.class_names == ["floor", "line"]
    with pytest.raises(UserError, match="size must be 8, as of the masks in shards, got 9"):
        opened("shards", size=9).load(train=True)


def test_images_without_files_become_png_files_with_equal_pixels() -> None:
    main(["shard", "--config=configs/digits.yaml", "--output=d"])
    for train in (True, False):
        images, targets = opened("d").load(train)
        expected, classes = Digits().load(train)
        everything = torch.arange(len(classes))
        assert images[everything].equal(expected)
        assert targets.equal(classes)


def test_shards_of_shards_have_the_same_pixels(shards: Path) -> None:  # noqa: ARG001
    main(
        [
            "shard",
            "--config=configs/folder.yaml",
            "--data=src.data.ShardFolder",
            "--data.root=shards",
            "--data.size=6",
            "--output=again",
        ]
    )
    images, again = (opened(root).load(train=True)[0][torch.arange(72)] for root in ("shards", "again"))
    assert images.equal(again)


def test_fit_trains_on_shards_and_tests_other_shards(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ARG001
    args = [
        "--model.net=src.nets.MLP",
        "--model.net.image_shape=[1,6,6]",
        "--trainer.max_epochs=1",
        "--model.tta=plain",
    ]
    data = ["--data=src.data.ShardFolder", "--data.root=shards", "--data.num_workers=0", "--data.size=6"]
    args += ["--model.net.hidden_sizes=[4]", "--data.augment=null", "--name=s", "--no_page"]
    main(["fit", "--config=configs/folder.yaml", *data, *args, "--data.folds=3"])
    out = capsys.readouterr().out
    assert "shards" in out
    shutil.rmtree("data/train/c")
    shutil.rmtree("data/test/c")
    main([*SHARD[:-2], "--output=other"])
    err = refused(capsys, "test", "--run=runs/s/version_0", "--data.root=other")
    assert "other must have the checkpoint's classes; not in both: c" in err
