"""A folder of pictures: its parts, its classes, its bad files and its cache."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from src import UserError
from src.data import ImageFolder
from src.data.samples import Samples

CLASSES = ("cat", "dog", "eel")


def fill(part: str, count: int, classes: tuple[str, ...] = CLASSES, first: int = 0) -> None:
    """Write pictures of one grey each: 80 for each class plus the number of the picture."""
    for target, name in enumerate(classes):
        folder = Path("data", part, name)
        folder.mkdir(parents=True)
        for i in range(first, first + count):
            Image.new("L", (5, 5), 80 * target + i).save(folder / f"{i:02}.bmp")


def pictures(**settings) -> ImageFolder:
    return ImageFolder(**{"size": 4, "channels": 1, "batch_size": 2, "folds": 2, **settings})


def greys(loaded) -> list[int]:
    """Return the grey that tells which picture each image is."""
    images, targets = loaded
    shades = images[torch.arange(len(targets))][:, 0, 0, 0]
    assert (shades // 80).tolist() == targets.tolist()
    return sorted(shades.tolist())


def greys_of(numbers: range) -> list[int]:
    return [80 * target + i for target in range(3) for i in numbers]


def test_without_a_test_folder_a_share_of_each_class_is_held_out():
    fill("train", 10)
    data = pictures(test_share=0.3)
    train, test = greys(data.load(train=True)), greys(data.load(train=False))
    assert sorted(train + test) == greys_of(range(10))
    assert [sum(shade // 80 == target for shade in test) for target in range(3)] == [3, 3, 3]
    torch.manual_seed(1)
    assert greys(pictures(test_share=0.3, split_seed=5).load(train=False)) == test


def test_folders_for_test_and_validation_are_used():
    fill("train", 4)
    fill("test", 2, first=10)
    fill("val", 3, first=20)
    data = pictures()
    data.setup("fit")
    data.setup("test")
    for part, numbers in (("train", range(4)), ("test", range(10, 12)), ("val", range(20, 23))):
        samples = data.parts[part]
        assert greys((samples.images[samples.index], samples.targets[samples.index])) == greys_of(numbers)
    assert data.class_names == list(CLASSES)


def test_without_a_val_folder_a_fold_is_used():
    fill("train", 4)
    fill("test", 2)
    data = pictures()
    data.setup("fit")
    assert [len(data.parts[part]) for part in ("train", "val")] == [6, 6]


def test_pictures_have_the_shape_asked_for():
    fill("train", 4)
    assert pictures(size=7, channels=3, test_share=0.5).load(train=True)[0].shape == (6, 3, 7, 7)


@pytest.mark.parametrize(
    "hidden", [".thumbnails/0.bmp", "cat/.0.bmp", "cat/.thumbnails/0.bmp", "notes.txt", "cat/x.txt"]
)
def test_hidden_files_and_folders_and_texts_are_ignored(hidden):
    fill("train", 4)
    fill("test", 2)
    odd = Path("data/train", hidden)
    odd.parent.mkdir(exist_ok=True)
    odd.write_text("no picture")
    assert greys(pictures().load(train=True)) == greys_of(range(4))


def test_pictures_in_folders_below_a_class_belong_to_it():
    fill("train", 4)
    fill("test", 2)
    Path("data/train/eel/more").mkdir()
    Path("data/train/eel/03.bmp").rename("data/train/eel/more/03.BMP")
    assert greys(pictures().load(train=True)) == greys_of(range(4))


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, r"no class folders in /.*/data/train: .*configs/digits\.yaml"),
        (no_classes, "no class folders in /.*/data/train"),
        (empty_class, "class folder data/train/fox has no images"),
        (other_classes, "data/val must have the classes of data/train; only one has: eel, emu"),
        (one_each, "cannot hold out 20% of data/train for testing"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(make, message):
    make()
    with pytest.raises(UserError, match=message):
        pictures().setup("fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"test_share": 0}, r"test_share must be in \(0, 1\), got 0"),
        ({"test_share": 1}, r"test_share must be in \(0, 1\), got 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder(**settings)


def test_pictures_are_decoded_once(monkeypatch):
    fill("train", 6)
    first = greys(pictures().load(train=True))
    monkeypatch.setattr("src.data.folder.decode", None)
    assert greys(pictures().load(train=True)) == first


def test_a_changed_picture_is_decoded_anew():
    fill("train", 4)
    fill("test", 2)
    pictures().load(train=True)
    changed = Path("data/train/cat/00.bmp")
    time = changed.stat().st_mtime_ns + 10**9
    Image.new("L", (5, 5), 79).save(changed)
    os.utime(changed, ns=(time, time))
    assert greys(pictures().load(train=True)) == sorted([79, *greys_of(range(4))[1:]])


def test_another_size_is_decoded_anew():
    fill("train", 4)
    pictures().load(train=True)
    assert pictures(size=3).load(train=True)[0].shape[2:] == (3, 3)


def test_a_cache_that_cannot_be_written_is_named():
    fill("train", 4)
    Path("full").write_text("a file, no folder")
    with pytest.raises(UserError, match="full"):
        pictures(cache="full/cache").load(train=True)


def spoil(*names: str) -> None:
    for name in names:
        Path("data/train", name).write_text("no picture")


@pytest.mark.parametrize("again", [False, True])  # from the cache too
def test_a_bad_picture_stops_and_is_named(again):
    fill("train", 4)
    spoil("cat/01.bmp", "eel/02.bmp")
    for _ in range(1 + again):
        with pytest.raises(UserError, match=r"data/train/cat/01\.bmp: .* and 1 more; .*on_bad_image=skip"):
            pictures().load(train=True)


def test_a_bad_picture_is_skipped_with_a_warning():
    fill("train", 4)
    fill("test", 1)
    spoil("cat/01.bmp", "eel/02.bmp")
    with pytest.warns(UserWarning, match=r"skipped 2 of 12 .*cat/01\.bmp.*eel/02\.bmp"):
        loaded = pictures(on_bad_image="skip").load(train=True)
    assert greys(loaded) == sorted(set(greys_of(range(4))) - {1, 162})


def test_too_many_bad_pictures_are_refused():
    fill("train", 4)
    spoil("cat/01.bmp", "cat/02.bmp", "eel/02.bmp", "eel/03.bmp")
    with pytest.raises(
        UserError, match=r"4 of 12 images cannot be decoded, more than 25% of those in data/train; .*01\.bmp"
    ):
        pictures(on_bad_image="skip").load(train=True)


@pytest.mark.filterwarnings("ignore:skipped")
def test_pictures_that_are_all_bad_are_refused():
    fill("train", 4)
    fill("test", 1)
    spoil(*(f"{name}/{i:02}.bmp" for name in CLASSES for i in range(4)))
    with pytest.raises(UserError, match="data/train"):
        pictures(on_bad_image="skip").setup("fit")


def test_streamed_pictures_are_those_in_memory():
    fill("train", 6)
    parts = []
    for in_memory in (True, False):
        data = pictures(in_memory=in_memory, batch_size=3)
        data.setup("fit")
        data.setup("test")
        loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
        parts.append([[torch.cat(values) for values in zip(*loader, strict=True)] for loader in loaders])
    for (images, targets), (streamed, streamed_targets) in zip(*parts, strict=True):
        assert images.equal(streamed)
        assert targets.equal(streamed_targets)


def test_a_bad_streamed_picture_is_dropped_with_its_target():
    fill("train", 4)
    fill("test", 1)
    spoil("cat/03.bmp", "eel/03.bmp")
    with pytest.warns(UserWarning, match="skipped 2 of 12 images"):
        images, targets = pictures(on_bad_image="skip", in_memory=False).load(train=True)
    everything = torch.arange(len(targets))
    _, shades, targets = Samples(images, targets, everything)[everything]
    assert (shades[:, 0, 0, 0] // 80).tolist() == targets.tolist()


def test_other_files_in_the_same_places_make_another_split():
    fill("train", 4)
    fill("val", 2)
    before, after = pictures(), pictures()
    before.setup("fit")
    Path("data/val/cat/00.bmp").rename("data/val/cat/held.bmp")
    Path("data/train/cat/00.bmp").rename("data/val/cat/00.bmp")
    Path("data/val/cat/held.bmp").rename("data/train/cat/99.bmp")
    after.setup("fit")
    assert len(before.parts["train"]) == len(after.parts["train"])
    with pytest.raises(UserError, match="trained on another split"):
        after.load_state_dict(before.state_dict())


def test_a_damaged_cache_is_written_anew():
    fill("train", 4)
    first = greys(pictures().load(train=True))
    (cached,) = Path("data/cache").glob("*.pt")
    cached.write_bytes(cached.read_bytes()[:100])
    assert greys(pictures().load(train=True)) == first
