"""ImageFolder: splits, classes, bad files and the cache."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from src import UserError
from src.cli import main
from src.config.arguments import read
from src.config.build import build
from src.config.parser import parse
from src.data import ImageFolder
from src.data.loading import cache
from src.data.loading.cache import MappedImages
from src.data.loading.image_files import ImageFiles
from src.data.loading.splits import Samples
from tests.conftest import ROOT

CLASSES = ("cat", "dog", "eel")


def fill(split: str, count: int, classes: tuple[str, ...] = CLASSES, first: int = 0) -> None:
    """Write images of one gray level each: 80 times the class plus the number of the image."""
    for target, name in enumerate(classes):
        folder = Path("data", split, name)
        folder.mkdir(parents=True)
        for i in range(first, first + count):
            Image.new("L", (5, 5), (80 * target + i) % 256).save(folder / f"{i:02}.bmp")


def small_folder(**settings) -> ImageFolder:
    return ImageFolder(**{"size": 4, "channels": 1, "batch_size": 2, "folds": 2, **settings})


def grays(loaded) -> list[int]:
    """Return the gray level of each image, which identifies its file."""
    images, targets = loaded
    shades = images[torch.arange(len(targets))][:, 0, 0, 0]
    assert (shades // 80).tolist() == targets.tolist()
    return sorted(shades.tolist())


def grays_of(numbers: range) -> list[int]:
    return [80 * target + i for target in range(3) for i in numbers]


def test_without_a_test_folder_a_fraction_of_each_class_is_held_out():
    fill("train", 10)
    data = small_folder(test_fraction=0.3)
    train, test = grays(data.load(train=True)), grays(data.load(train=False))
    assert sorted(train + test) == grays_of(range(10))
    assert [sum(shade // 80 == target for shade in test) for target in range(3)] == [3, 3, 3]
    torch.manual_seed(1)
    assert grays(small_folder(test_fraction=0.3, split_seed=5).load(train=False)) == test


def test_val_and_test_folders_are_used():
    fill("train", 4)
    fill("test", 2, first=10)
    fill("val", 3, first=20)
    data = small_folder()
    data.setup("fit")
    data.setup("test")
    for split, numbers in (("train", range(4)), ("test", range(10, 12)), ("val", range(20, 23))):
        samples = data.splits[split]
        assert grays((samples.images[samples.index], samples.targets[samples.index])) == grays_of(numbers)
    assert data.class_names == list(CLASSES)


def test_without_a_val_folder_a_fold_is_used():
    fill("train", 4)
    fill("test", 2)
    data = small_folder()
    data.setup("fit")
    assert [len(data.splits[split]) for split in ("train", "val")] == [6, 6]


def test_images_have_the_requested_shape():
    fill("train", 4)
    assert small_folder(size=7, channels=3, test_fraction=0.5).load(train=True)[0].shape == (6, 3, 7, 7)


@pytest.mark.parametrize(
    "hidden", [".thumbnails/0.bmp", "cat/.0.bmp", "cat/.thumbnails/0.bmp", "notes.txt", "cat/x.txt"]
)
def test_hidden_files_and_text_files_are_ignored(hidden):
    fill("train", 4)
    fill("test", 2)
    odd = Path("data/train", hidden)
    odd.parent.mkdir(exist_ok=True)
    odd.write_text("not an image", encoding="utf-8")
    assert grays(small_folder().load(train=True)) == grays_of(range(4))


def test_images_in_subfolders_belong_to_their_class():
    fill("train", 4)
    fill("test", 2)
    Path("data/train/eel/more").mkdir()
    Path("data/train/eel/03.bmp").rename("data/train/eel/more/03.BMP")
    assert grays(small_folder().load(train=True)) == grays_of(range(4))


def no_classes() -> None:
    Path("data/train").mkdir(parents=True)
    Image.new("L", (5, 5)).save("data/train/0.bmp")


def empty_class() -> None:
    fill("train", 4)
    Path("data/train/fox").mkdir()


def other_classes() -> None:
    fill("train", 4)
    fill("val", 2, ("cat", "dog", "emu"))


def one_each() -> None:
    fill("train", 1)


def one_each_to_train() -> None:
    fill("train", 1)
    fill("test", 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, r"no class folders in /.*/data/train: .*configs/digits\.yaml"),
        (no_classes, "no class folders in /.*/data/train"),
        (empty_class, "class folder data/train/fox has no images"),
        (other_classes, "data/val must have the classes of data/train; not in both: eel, emu"),
        (
            one_each,
            "cannot hold out 20% of data/train .* needs at least 2 samples of each class, .* a test/",
        ),
        (one_each_to_train, "size of the largest training class must be at least 2, to train and to validate, got 1"),
    ],
)
def test_an_unusable_folder_is_named(make, message):
    make()
    with pytest.raises(UserError, match=message):
        small_folder().setup("fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"test_fraction": 0}, r"test_fraction must be in \(0, 1\), got 0"),
        ({"test_fraction": 1}, r"test_fraction must be in \(0, 1\), got 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder(**settings)


def test_images_are_decoded_once(monkeypatch):
    fill("train", 6)
    first = grays(small_folder().load(train=True))
    monkeypatch.setattr("src.data.loading.image_files.read", None)
    assert grays(small_folder().load(train=True)) == first


def test_a_changed_image_is_decoded_again():
    fill("train", 4)
    fill("test", 2)
    small_folder().load(train=True)
    changed = Path("data/train/cat/00.bmp")
    time = changed.stat().st_mtime_ns + 10**9
    Image.new("L", (5, 5), 79).save(changed)
    os.utime(changed, ns=(time, time))
    assert grays(small_folder().load(train=True)) == sorted([79, *grays_of(range(4))[1:]])


def test_another_size_is_decoded_again():
    fill("train", 4)
    small_folder().load(train=True)
    assert small_folder(size=3).load(train=True)[0].shape[2:] == (3, 3)


def test_an_unwritable_cache_is_named():
    fill("train", 4)
    Path("full").write_text("a file, no folder", encoding="utf-8")
    with pytest.raises(UserError, match="full"):
        small_folder(cache="full/cache").load(train=True)


def damage(*names: str) -> None:
    for name in names:
        Path("data/train", name).write_text("not an image", encoding="utf-8")


@pytest.mark.parametrize("again", [False, True])  # from the cache too
def test_a_bad_image_stops_and_is_named(again):
    fill("train", 4)
    damage("cat/01.bmp", "eel/02.bmp")
    for _ in range(1 + again):
        with pytest.raises(UserError, match=r"data/train/cat/01\.bmp: .* and 1 more; .*on_bad_image=skip"):
            small_folder().load(train=True)


def test_a_bad_image_is_skipped_with_a_warning():
    fill("train", 4)
    fill("test", 1)
    damage("cat/01.bmp", "eel/02.bmp")
    with pytest.warns(UserWarning, match=r"skipped 2 of 12 .*cat/01\.bmp.*eel/02\.bmp"):
        loaded = small_folder(on_bad_image="skip").load(train=True)
    assert grays(loaded) == sorted(set(grays_of(range(4))) - {1, 162})


def test_too_many_bad_images_are_refused():
    fill("train", 4)
    damage("cat/01.bmp", "cat/02.bmp", "eel/02.bmp", "eel/03.bmp")
    with pytest.raises(
        UserError, match=r"4 of 12 images cannot be decoded, more than 25% of the images in data/train; .*01\.bmp"
    ):
        small_folder(on_bad_image="skip").load(train=True)


@pytest.mark.filterwarnings("ignore:skipped")
def test_only_bad_images_are_refused():
    fill("train", 4)
    fill("test", 1)
    damage(*(f"{name}/{i:02}.bmp" for name in CLASSES for i in range(4)))
    with pytest.raises(UserError, match="data/train"):
        small_folder(on_bad_image="skip").setup("fit")


def test_images_decoded_on_access_equal_those_in_memory():
    fill("train", 6)
    batches = []
    for in_memory in (True, False):
        data = small_folder(in_memory=in_memory, batch_size=3)
        data.setup("fit")
        data.setup("test")
        loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
        batches.append([[torch.cat(values) for values in zip(*loader, strict=True)] for loader in loaders])
    for (images, targets), (on_access, targets_on_access) in zip(*batches, strict=True):
        assert images.equal(on_access)
        assert targets.equal(targets_on_access)


def test_a_bad_image_decoded_on_access_is_dropped_with_its_target():
    fill("train", 4)
    fill("test", 1)
    damage("cat/03.bmp", "eel/03.bmp")
    with pytest.warns(UserWarning, match="skipped 2 of 12 images"):
        images, targets = small_folder(on_bad_image="skip", in_memory=False).load(train=True)
    everything = torch.arange(len(targets))
    _, shades, targets = Samples(images, targets, everything)[everything]
    assert (shades[:, 0, 0, 0] // 80).tolist() == targets.tolist()


def test_renamed_files_at_the_same_positions_make_another_split():
    fill("train", 4)
    fill("val", 2)
    before, after = small_folder(), small_folder()
    before.setup("fit")
    Path("data/val/cat/00.bmp").rename("data/val/cat/held.bmp")
    Path("data/train/cat/00.bmp").rename("data/val/cat/00.bmp")
    Path("data/val/cat/held.bmp").rename("data/train/cat/99.bmp")
    after.setup("fit")
    assert len(before.splits["train"]) == len(after.splits["train"])
    with pytest.raises(UserError, match="trained on another split"):
        after.load_state_dict(before.state_dict())


def test_a_checkpoint_of_other_classes_is_refused():
    fill("train", 4)
    data = small_folder()
    data.setup("fit")
    state = data.state_dict() | {"class_names": ["cat", "dog", "emu"]}
    with pytest.raises(UserError, match=r"^data must have the checkpoint's classes; not in both: eel, emu$"):
        data.load_state_dict(state)


def test_a_damaged_cache_is_replaced():
    fill("train", 4)
    first = grays(small_folder().load(train=True))
    (cached,) = Path("data/cache").glob("*.pt")
    cached.write_bytes(cached.read_bytes()[:100])
    assert grays(small_folder().load(train=True)) == first


def noise(file: str, seed: int, size: tuple[int, ...] = (9, 9), high: int = 256) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(high, size=size, dtype=np.uint8)).save(file)


def described(data: ImageFolder) -> str:
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    data.prepare_data()
    data.trainer = None
    data.setup("fit")
    return "\n".join(f"{name}: {' '.join(value.split())}" for name, value in data.describe_splits())


@pytest.mark.parametrize("names", [("", "", ""), ("train", "valid", "test"), ("Training", "validation", "Testing")])
def test_splits_are_found_by_their_usual_names(names, monkeypatch):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    for split, count in zip(names, (10, 2, 3), strict=True):
        if split or count == 10:
            fill(split, count, first=count)
    data = small_folder(root="~/data")
    text = described(data)
    assert data.class_names == list(CLASSES)
    if names[0]:
        assert "images: train val test\ncat: 10 2 3\ndog: 10 2 3\neel: 10 2 3\nall: 30 6 9" in text
    else:  # a fifth is held out, then every second is for validation
        assert "images: train val test\ncat: 4 4 2\ndog: 4 4 2\neel: 4 4 2\nall: 12 12 6" in text


def test_two_names_of_one_split_are_refused():
    for split in ("train", "val", "valid"):
        fill(split, 2)
    with pytest.raises(UserError, match=r"data has val/ and valid/, which all mean val: keep one"):
        small_folder().setup("fit")


def test_a_folder_around_the_class_folders_is_named():
    fill("photos", 4)
    with pytest.raises(UserError, match=r"data has only one class folder, photos: .* --data.root=data/photos"):
        small_folder().setup("fit")


def test_the_table_names_files_that_are_left_out_and_why():
    fill("train", 10)
    for name in ("cat/a.HEIC", "cat/b.heic", "dog/c.svg", "labels.csv"):
        Path("data/train", name).touch()
    noise("data/train/eel/young/0.png", 0)
    Path("data/train/cat/01.bmp").write_text("not an image", encoding="utf-8")
    with pytest.warns(UserWarning, match="skipped 1 of 31"):
        text = described(small_folder(on_bad_image="skip"))
    assert "left out: 2 .heic, 1 .svg, 1 .csv outside class folders\n: to use .heic, install pillow-heif" in text
    assert "left out: 1 that cannot be decoded, first: cannot decode data/train/cat/01.bmp" in text
    assert "note: images in subfolders of eel, 1, count as eel" in text


def test_copies_of_training_images_are_counted():
    for i in range(12):
        noise(f"data/train/{'ab'[i % 2]}/{i}.png", i)
        noise(f"data/test/{'ab'[i % 2]}/{i}.png", i if i < 5 else 100 + i)
    (Path("data/train/a/copy.png")).write_bytes(Path("data/train/a/2.png").read_bytes())
    data = small_folder(folds=6)
    text = described(data)
    held = {Path(data.files["train"][i]).name for i in data.splits["val"].index}
    assert "note: 5 of 12 test images are copies of images in an earlier split" in text
    assert ("val images are copies" in text) == (len(held & {"2.png", "copy.png"}) == 1)


@pytest.mark.parametrize("tests", [True, False])
def test_fit_reads_test_images_only_if_it_ends_with_a_test(tests: bool):
    fill("train", 4)
    fill("test", 2)
    settings = [
        "--config=configs/folder.yaml",
        f"--test={str(tests).lower()}",
        "--data.size=8",
        "--model.net=src.nets.MLP",
    ]
    data = build(parse(read(["fit", *settings])[0])).data
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    data.prepare_data()
    assert {*data.decoded} == ({"train", "test"} if tests else {"train"})


def test_a_small_folder_shrinks_batches_and_folds_with_a_note():
    fill("train", 4)
    data = small_folder(batch_size=32, folds=10)
    text = described(data)
    assert "note: folds is 3, the size of the largest training class, instead of 10" in text
    assert "note: batch_size is 6, the number of training samples, instead of 32" in text
    assert (data.folds, data.batch_size, len(next(iter(data.train_dataloader()))[0])) == (3, 6, 6)


def test_a_class_with_fewer_images_than_folds_is_noted():
    fill("train", 10)
    for file in sorted(Path("data/train/eel").iterdir())[3:]:
        file.unlink()
    assert "note: a class has only 2 training images, fewer than 5 folds" in described(small_folder(folds=5))


def test_data_sets_of_equal_names_sizes_and_times_have_their_own_cache():
    for place, seed in (("one", 0), ("two", 1)):
        for name in ("a/0.bmp", "a/1.bmp", "b/0.bmp", "b/1.bmp"):
            noise(f"{place}/data/train/{name}", seed)
            os.utime(f"{place}/data/train/{name}", ns=(10**18, 10**18))
    loaded = [small_folder(root=f"{place}/data", test_fraction=0.5).load(train=True)[0] for place in ("one", "two")]
    assert not loaded[0].equal(loaded[1])


@pytest.fixture
def little_memory(monkeypatch) -> None:
    monkeypatch.setattr("src.data.loading.cache.memory", lambda: 64)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("test_folder", [True, False])
def test_a_set_larger_than_memory_is_read_from_a_file_of_pixels(test_folder, monkeypatch):
    fill("train", 6)
    if test_folder:
        fill("test", 2)
    expected = [grays(small_folder(in_memory=False).load(train=train)) for train in (True, False)]
    first = small_folder()
    assert [grays(first.load(train=train)) for train in (True, False)] == expected
    monkeypatch.setattr("src.data.loading.image_files.read", None)
    again = small_folder(num_workers=3)
    images, targets = again.load(train=True)
    assert type(images) is MappedImages
    assert images.num_workers == 3
    assert grays((images, targets)) == expected[0]


@pytest.mark.usefixtures("little_memory")
def test_batches_from_a_file_of_pixels_equal_those_decoded_on_access():
    fill("train", 6)
    batches = []
    for settings in ({"in_memory": False}, {}, {"num_workers": 2}):
        data = small_folder(batch_size=3, **{"num_workers": 0, **settings})
        data.setup("fit")
        batches.append([[values.tolist() for values in batch] for batch in data.train_dataloader()])
    assert batches[0] == batches[1] == batches[2]


@pytest.mark.usefixtures("little_memory")
def test_without_room_on_the_disk_images_are_decoded_on_access(monkeypatch):
    fill("train", 6)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=200))
    assert type(small_folder().load(train=True)[0]) is ImageFiles
    assert [file.suffix for file in Path("data/cache").iterdir()] == [".pt"]
    assert isinstance(small_folder(in_memory=True).load(train=True)[0], Tensor)


@pytest.mark.usefixtures("little_memory")
def test_a_file_of_pixels_that_is_truncated_later_is_named():
    fill("train", 6)
    images, _ = small_folder().load(train=True)
    os.truncate(images.file, 100)
    with pytest.raises(UserError, match=r"data/cache/.*\.pixels is truncated: delete it"):
        images[torch.arange(8)]


@pytest.mark.usefixtures("little_memory")
def test_deep_images_in_a_file_of_pixels_have_the_scale_of_those_in_memory():
    for i, high in enumerate((4095, 300, 100, 200)):
        for name in "ab":
            Path("data/train", name).mkdir(parents=True, exist_ok=True)
            pixels = np.full((4, 4), high).astype(np.uint8 if i % 2 else np.uint16)
            Image.fromarray(pixels).save(Path("data/train", name, f"{i}.png"))
    damaged = Path("data/train/a/0.png")
    damaged.write_text("not an image", encoding="utf-8")
    with pytest.warns(UserWarning, match="skipped"):
        mapped, _ = small_folder(on_bad_image="skip").load(train=True)
    with pytest.warns(UserWarning, match="skipped"):
        held, _ = small_folder(on_bad_image="skip", in_memory=True, cache="other").load(train=True)
    assert mapped[torch.arange(len(mapped))].equal(held)


def test_a_full_disk_is_named_before_images_are_decoded(monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    fill("train", 4)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match=r"cannot write data/cache/.*\.pixels: .*No space left.*--data\.cache"):
        small_folder().load(train=True)
    assert not [*Path("data/cache").iterdir()]


def test_a_cache_may_hold_no_images():
    found = cache.decode_cached(Path("none.pt"), [], (1, 4, 4), None, None)
    assert found["images"].shape == (0, 1, 4, 4)
    assert cache.decode_cached(Path("none.pt"), [], (1, 4, 4), None, None)["good"].tolist() == []


def test_temporary_files_of_killed_processes_are_removed():
    fill("train", 4)
    fill("test", 1)
    small_folder().load(train=True)
    (pixels,) = Path("data/cache").glob("*.pixels")
    old, new = (pixels.with_name(f"{pixels.name}.{pid}") for pid in (1, 2))
    old.write_text("", encoding="utf-8")
    new.write_text("", encoding="utf-8")
    os.utime(old, (0, 0))
    pixels.unlink()
    small_folder().load(train=True)
    assert [old.exists(), new.exists(), pixels.exists()] == [False, True, True]


def fit_within_memory() -> None:
    """Train on 1,200 images of 192 KB, 236 MB, with 200 MB of memory more than this process has."""
    import resource

    import sklearn.model_selection  # noqa: F401  # takes memory of its own

    used = int(re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + 200 * 10**6,) * 2)
    with pytest.raises(MemoryError):
        np.ones(1200 * 192 * 1024, np.uint8)
    cache.memory = lambda: 2**20
    args = ["--model.net=src.nets.MLP", "--model.net.image_shape=[3,256,256]", "--model.net.hidden_sizes=[2]"]
    args += ["--data.size=256", "--data.batch_size=8", "--data.num_workers=0", "--data.augment=null", "--no_page"]
    main(["fit", "--config=configs/folder.yaml", *args, "--model.tta=plain", "--trainer.max_epochs=1", "--test=false"])


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is of Linux")
def test_a_run_trains_on_more_images_than_memory_holds():
    fill("train", 400)
    code = "from tests.data.test_folder import fit_within_memory as fit; fit()"  # a fork may hold free memory
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (pixels,) = Path("data/cache").glob("*-train-*.pixels")
    assert pixels.stat().st_size == 1200 * 3 * 256 * 256


def flipped(file: Path) -> None:
    content = bytearray(file.with_suffix(".pixels").read_bytes())
    content[70] ^= 1  # in the fifth image
    file.with_suffix(".pixels").write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        flipped,
        lambda file: os.truncate(file.with_suffix(".pixels"), 100),
        lambda file: file.with_suffix(".pixels").unlink(),
        lambda file: torch.save([1, 2], file),
        lambda file: torch.save({}, file),
        lambda file: torch.save(torch.load(file) | {"good": torch.arange(12) + 1}, file),
        lambda file: torch.save(torch.load(file) | {"digests": torch.zeros(12)}, file),
    ],
)
def test_a_cache_with_other_content_is_replaced(change):
    fill("train", 4)
    fill("test", 1)
    for file in Path("data/train").rglob("*.bmp"):
        Image.fromarray(np.arange(80, 84, dtype=np.uint8)[None].repeat(4, 0)).save(file)
    first = small_folder().load(train=True)[0].clone()
    (cached,) = Path("data/cache").glob("*.pt")
    change(cached)
    assert small_folder().load(train=True)[0].equal(first)
    assert sorted(file.suffix for file in Path("data/cache").iterdir()) == [".pixels", ".pt"]


def test_deep_images_of_a_data_set_have_one_scale():
    for i, high in enumerate((4095, 2000, 100, 4000, 1000, 50)):
        for split, factor in (("train", 1), ("test", 0.5)):
            pixels = np.full((4, 4), high * factor)
            for name in "ab":
                Path("data", split, name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype((np.uint16, np.int32, np.float32)[i % 3])).save(
                    Path("data", split, name, f"{i}.tif")
                )
    data, expected = small_folder(), np.array([4095, 2000, 100, 4000, 1000, 50]) / 4095 * 255
    images = data.load(train=True)[0][:6, 0, 0, 0].numpy()
    assert np.abs(images - expected).max() <= 0.5
    assert np.abs(data.load(train=False)[0][:6, 0, 0, 0].numpy() - expected / 2).max() <= 0.51
    on_access = small_folder(in_memory=False)
    assert on_access.load(train=True)[0][torch.arange(6)][:, 0, 0, 0].tolist() == images.tolist()
    data.setup("fit")
    other = small_folder()
    other.load_state_dict(data.state_dict())
    assert other.scale == (0, 4095)
