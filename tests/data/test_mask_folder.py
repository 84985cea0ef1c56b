"""MaskFolder: images and masks of one's own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import UserError, load_run
from src.cli import main
from src.data import MaskFolder
from tests.conftest import refused

FIT = ["fit", "--config=configs/digits_masks.yaml", "--data=src.data.MaskFolder", "--data.root=own", "--data.size=16"]
FIT += ["--data.classes=[floor, cat]", "--data.batch_size=4", "--data.folds=2", "--model.num_classes=2"]
FIT += ["--model.net.in_channels=3", "--model.net.width=4", "--model.net.depth=1", "--trainer.max_epochs=1"]
FIT += ["--model.warmup_steps=0"]


def save(folder: Path, count: int = 10, size: tuple[int, int] = (20, 16), palette: bool = True) -> None:
    """Save images that are bright where their mask is 1: a column of their own in each."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        mask = np.zeros(size[::-1], np.uint8)
        mask[:, 4 + i % 8] = 1
        Image.fromarray(mask * 255).convert("RGB").save(folder / f"images/{i:02}.png")
        picture = Image.fromarray(mask, "P" if palette else "L")
        if palette:
            picture.putpalette([0, 0, 0, 255, 0, 0])
        picture.save(folder / f"masks/{i:02}.png")


@pytest.mark.parametrize("palette", [True, False])
def test_masks_move_with_their_images(palette: bool) -> None:
    save(Path("own"), palette=palette)
    data = MaskFolder(["floor", "cat"], size=16, channels=1, root="own", folds=2)
    images, masks = data.load(train=True)
    assert images.shape[1:] == (1, 16, 16)
    assert masks.equal((images[:, 0] > 127).byte())
    assert len(images) == 8
    assert len(data.load(train=False)[0]) == 2
    assert len(data.files["test"]) == 2


def test_another_test_fraction_than_in_training_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    save(Path("own"))
    x = main(FIT)
    main(["test", f"--run={x.run.path}"])
    line = refused(capsys, "test", f"--run={x.run.path}", "--data.test_fraction=0.4")
    assert "the checkpoint was trained on another split of the data" in line


def test_own_folders_of_images_and_masks_train_and_are_tested() -> None:
    for split in ("train", "val", "test"):
        save(Path("own", split), 5)
    x = main(FIT)
    assert {name: len(split) for name, split in x.data.splits.items()} == {
        "train": 5,
        "val": 5,
        "test": 5,
        "predict": 5,
    }


def spoil(what: str) -> None:
    file = Path("own/masks/03.png")
    if what == "missing":
        file.unlink()
    elif what == "size":
        Image.new("L", (9, 9)).save(file)
    elif what == "text":
        file.write_text("no picture", encoding="utf-8")
    elif what == "bomb":
        Image.new("1", (20_000, 20_000)).save(file)
    elif what == "postscript":
        file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 16\n%%EndComments\nshowpage\n")
    elif what == "jpeg":
        Image.new("L", (20, 16), 1).save(file, "JPEG")
    elif what == "twin":
        Image.new("RGB", (20, 16)).save("own/images/03.jpg")
    elif what == "color":
        Image.new("RGB", (20, 16)).save(file)
    else:
        Image.new("L", (20, 16), 7).save(file)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", r"own/images/03.png has no mask: own/masks/03.png does not exist"),
        ("size", r"own/masks/03.png has 9 x 9 pixels, its image 20 x 16"),
        ("color", r"own/masks/03.png must be a gray or palette PNG of classes, got mode RGB"),
        ("label", r"own/masks/03.png has the value 7, but there are 2 classes, whose values are 0 to 1"),
        ("text", r"cannot decode own/masks/03.png: not a readable PNG; repair or replace it"),
        ("bomb", r"cannot decode own/masks/03.png: Image size \(400000000 pixels\) exceeds limit"),
        ("postscript", r"cannot decode own/masks/03.png: not a readable PNG"),
        ("jpeg", r"cannot decode own/masks/03.png: not a readable PNG"),
        ("twin", r"own/images/03.jpg has the same mask as another image: rename one of them"),
    ],
)
def test_a_wrong_mask_is_named(what: str, message: str) -> None:
    save(Path("own"))
    spoil(what)
    with pytest.raises(UserError, match=message):
        MaskFolder(["floor", "cat"], size=16, root="own").load(train=True)


def test_a_folder_without_images_is_named() -> None:
    with pytest.raises(
        UserError, match="no image files in own/images: put images there, and their masks into own/masks"
    ):
        MaskFolder(["a", "b"], root="own").load(train=True)


@pytest.mark.parametrize("classes", [[], ["cat"], ["cat", "cat"], [str(i) for i in range(257)]])
def test_impossible_classes_are_refused(classes: list[str]) -> None:
    with pytest.raises(UserError, match=f"classes must be 2 to 256 different names, got {len(classes)}"):
        MaskFolder(classes)


def test_usual_names_of_splits_are_found_and_other_files_noted() -> None:
    for split, count in {"train": 6, "valid": 3, "testing": 2}.items():
        save(Path("own", split), count)
    Path("own/train/images/notes.svg").write_text("x", encoding="utf-8")
    data = MaskFolder(["floor", "cat"], size=16, root="own", batch_size=4)
    data.setup("fit")
    data.setup("test")
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [6, 3, 2]
    assert data.describe_splits() == [("left out", "1 .svg")]


def test_deep_images_of_all_splits_have_one_scale() -> None:
    for split, top in {"train": 4000, "test": 200}.items():
        save(Path("own", split))
        for file in Path("own", split, "images").iterdir():
            with Image.open(file) as image:
                bright = np.array(image.convert("L")) > 127
            Image.fromarray(bright.astype(np.uint16) * top).save(file)
    x = main(FIT)
    assert [int(x.data.splits[name].images.max()) for name in ("train", "test")] == [
        round(value * 255 / 4095) for value in (4000, 200)
    ]
    _, data = load_run(x.run.path)
    data.setup("test")
    assert data.splits["test"].images.equal(x.data.splits["test"].images)
