"""check: what is wrong with data is named, and nothing else."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from src.cli import main
from src.data import ImageFolder
from tests.conftest import ROOT, refused

FOLDER = ["--config=configs/folder.yaml", "--data.root=photos", "--data.size=32", "--data.augment=[]"]
REAL_MNIST = ROOT.parent / "shared/data/mnist"
CLASSES = ("cat", "dog", "eel")


def photo(seed: int, size: int = 48) -> Image.Image:
    """Return a picture of random blobs, unlike any with another seed."""
    draw = np.random.default_rng(seed)
    blobs = Image.fromarray(draw.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    return Image.fromarray(np.clip(np.asarray(blobs) + draw.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8))


@pytest.fixture
def photos() -> Path:
    """Write 12 training, 5 validation and 5 test pictures of each class; return their folder."""
    seed = 0
    for split, count in (("train", 12), ("val", 5), ("test", 5)):
        for name in CLASSES:
            folder = Path("photos", split, name)
            folder.mkdir(parents=True)
            for i in range(count):
                photo(seed := seed + 1).save(folder / f"{i:02}.png")
    return Path("photos")


def check(*args: str, code: int = 0) -> dict[str, Any]:
    """Run check on the photos, which must exit with this code, and return what it found."""
    command = ["check", *FOLDER, "--output=found", *args]
    if code:
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == code
    else:
        main(command)
    return json.loads(Path("found/check.json").read_text(encoding="utf-8"))


def named(pairs: list[list[Any]]) -> set[frozenset[str]]:
    return {frozenset(pair[:2]) for pair in pairs}


@pytest.mark.usefixtures("photos")
def test_nothing_is_reported_of_a_clean_set(capsys: pytest.CaptureFixture[str]) -> None:
    found = check("--fix=out.txt")
    kinds = ("undecodable", "exact_duplicates", "near_duplicates", "label_conflicts", "outliers", "faults")
    assert {kind: found[kind] for kind in kinds} == {kind: [] for kind in kinds}
    assert found["counts"] == {s: dict.fromkeys(CLASSES, n) for s, n in (("train", 12), ("val", 5), ("test", 5))}
    out = capsys.readouterr().out
    assert re.search(r"^to leave out +none$", out, re.M)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.heavy
def test_planted_faults_are_named_by_path_and_mended_by_fix(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jpeg = Path("photos/train/cat/cut.jpg")
    photo(900).save(jpeg)
    jpeg.write_bytes(jpeg.read_bytes()[:400])
    Path("photos/train/dog/empty.png").touch()
    Path("photos/test/dog/text.jpg").write_text("no picture", encoding="utf-8")
    shutil.copy(photos / "train/cat/03.png", photos / "test/cat/copy.png")
    Image.open(photos / "train/eel/01.png").save(photos / "val/eel/again.bmp")
    shutil.copy(photos / "train/cat/05.png", photos / "train/dog/other.png")
    Image.open(photos / "train/dog/07.png").resize((40, 40)).save(photos / "test/dog/small.jpg", quality=90)
    Image.new("RGB", (48, 48), (90, 90, 90)).save(photos / "val/cat/blank.png")
    photo(901, 96).crop((0, 0, 96, 20)).save(photos / "train/eel/wide.png")
    Image.fromarray((np.asarray(photo(902)) // 12).astype(np.uint8)).save(photos / "train/eel/dark.png")
    found = check("--fix=out.txt", code=1)
    assert {*found["undecodable"]} == {"train/cat/cut.jpg", "train/dog/empty.png", "test/dog/text.jpg"}
    exact = {("train/cat/03.png", "test/cat/copy.png"), ("train/eel/01.png", "val/eel/again.bmp")}
    conflict = frozenset(("train/cat/05.png", "train/dog/other.png"))
    assert named(found["exact_duplicates"]) == {*map(frozenset, exact), conflict}
    assert named(found["near_duplicates"]) == {frozenset(("train/dog/07.png", "test/dog/small.jpg"))}
    assert named(found["label_conflicts"]) == {conflict}
    odd = {"val/cat/blank.png": "blank", "train/eel/wide.png": "odd size", "train/eel/dark.png": "dark"}
    assert odd.items() <= {(name, kind) for name, kind, _ in found["outliers"]}
    printed = capsys.readouterr().out
    assert "8 samples: add --data.exclude=out.txt" in printed
    assert all(name in printed for name in ("train/cat/cut.jpg", "train/dog/other.png", "test/cat/copy.png"))
    removed = {*Path("out.txt").read_text(encoding="utf-8").splitlines()}
    train = {"train/cat/03.png", "train/eel/01.png", "train/dog/07.png"}
    assert removed == {*found["undecodable"], *conflict, *train}
    again = check("--data.exclude=out.txt")
    assert again["faults"] == again["undecodable"] == again["exact_duplicates"] == again["near_duplicates"] == []
    main(["fit", *FOLDER, "--data.exclude=out.txt", "--trainer.fast_dev_run=true"])


def test_copies_of_a_picture_with_two_labels_are_all_left_out(photos: Path) -> None:
    for copy in ("train/cat/a.png", "test/dog/a.png"):
        shutil.copy(photos / "train/cat/05.png", photos / copy)
    check("--fix=out.txt", code=1)
    assert Path("out.txt").read_text(encoding="utf-8").split() == [
        "train/cat/05.png",
        "train/cat/a.png",
        "test/dog/a.png",
    ]


@pytest.mark.heavy
def test_pictures_of_words_have_no_near_duplicates(photos: Path) -> None:
    draw = np.random.default_rng(0)
    for file in photos.rglob("*.png"):
        image = Image.new("L", (64, 64), 255)  # most pixels are equal in all, so most variances are 0
        ImageDraw.Draw(image).text((4, 24), "".join(draw.choice([*"abcdefghijklmnopqrstuvwxyz"], 8)), fill=0)
        image.save(file)
    found = check()
    assert found["near_duplicates"] == found["label_conflicts"] == []


def test_a_set_without_a_readable_picture_is_one_line(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in photos.rglob("*.png"):
        file.write_text("no picture", encoding="utf-8")
    assert "36 of 36 images cannot be decoded" in refused(capsys, "check", *FOLDER)


def test_a_split_without_a_readable_picture_is_counted(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = sorted((photos / "val").rglob("*.png")) + sorted((photos / "test").rglob("0[0-2].png"))
    for file in bad:
        file.write_text("no picture", encoding="utf-8")
    found = check(code=1)
    assert found["counts"]["val"] == dict.fromkeys(CLASSES, 0)
    assert {*found["undecodable"]} == {str(file.relative_to(photos)) for file in bad}
    assert found["faults"][-3:] == [f"val has no {name}" for name in CLASSES]
    assert capsys.readouterr().out.splitlines()[-1].strip() == "and 7 others, in check.json"


def test_a_class_that_a_split_lacks_is_named(photos: Path) -> None:
    shutil.rmtree(photos / "val/eel")
    found = check(code=1)
    assert found["faults"] == ["val has no eel"]
    assert found["counts"]["val"] == {"cat": 5, "dog": 5, "eel": 0}
    assert "not in both: eel" in refused_fit()


def refused_fit() -> str:
    with pytest.raises(ValueError, match="not in both") as error:
        ImageFolder(root="photos", size=32).setup("fit")
    return str(error.value)


def test_suspect_labels_are_ranked_and_samples_without_files_named_by_index() -> None:
    main(["check", "--config=configs/digits.yaml", "--output=found"])
    found = json.loads(Path("found/check.json").read_text(encoding="utf-8"))
    assert found["faults"] == found["exact_duplicates"] == found["outliers"] == []
    scores = [score for *_, score in found["suspect_labels"]]
    assert scores == sorted(scores, reverse=True)
    assert all(given != other for _, given, other, _ in found["suspect_labels"])
    assert {name.split("/")[0] for name, *_ in found["suspect_labels"]} == {"train", "test"}


@pytest.mark.parametrize("name", ["diabetes", "digits_masks", "digits_rotation", "digits_retrieval"])
def test_targets_of_other_kinds_are_described(name: str) -> None:
    main(["check", f"--config=configs/{name}.yaml", "--output=found"])
    found = json.loads(Path("found/check.json").read_text(encoding="utf-8"))
    assert found["faults"] == []
    assert bool(found["targets"]) == (name != "digits_retrieval")
    assert bool(found["suspect_labels"]) == (name != "digits_masks")


def test_copied_rows_and_constant_columns_of_a_table_are_named() -> None:
    draw = np.random.default_rng(0)
    rows = [f"{a:.4f},7,{b:.4f}" for a, b in draw.normal(size=(60, 2))]
    Path("rows.csv").write_text("\n".join(["a,constant,b", *rows, *rows[:20]]), encoding="utf-8")
    table = ["--data=src.data.Table", "--data.root=.", "--data.file=rows.csv", "--data.target=b"]
    with pytest.raises(SystemExit) as stop:
        main(["check", "--config=configs/diabetes.yaml", *table, "--output=found"])
    assert stop.value.code == 1
    found = json.loads(Path("found/check.json").read_text(encoding="utf-8"))
    assert len(found["exact_duplicates"]) == 20
    assert {int(name.split()[1]) - 2 for pair in found["exact_duplicates"] for name in pair[:2]} == {
        *range(20),
        *range(60, 80),
    }
    assert found["outliers"] == [["constant", "constant column", 0.0]]


@pytest.mark.parametrize("data", ["DictLoaders", "Grouped", "Numbers"])
def test_data_of_another_project_is_read_from_its_loaders(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["check", "--model=tests.own_code.Plain", f"--data=tests.own_code.{data}"]
    assert "--fix needs a data module of this project" in refused(capsys, *command, "--fix=out.txt")
    with pytest.raises(SystemExit) as stop:  # its training and validation loaders have the same samples
        main([*command, "--output=found"])
    assert stop.value.code == 1
    found = json.loads(Path("found/check.json").read_text(encoding="utf-8"))
    assert len(found["exact_duplicates"]) >= 16
    assert found["notes"]


def test_the_page_has_its_pictures_inside_and_is_small(photos: Path) -> None:
    shutil.copy(photos / "train/cat/05.png", photos / "train/dog/other.png")
    check(code=1)
    page = Path("found/check.html").read_text(encoding="utf-8")
    inside = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert len(inside) >= 24
    assert all(each.startswith("data:image/") for each in inside)
    assert "train/cat/05.png (cat)" in page
    assert "//" not in re.sub(r"base64,[^\"]*", "", page)
    assert len(page) - sum(map(len, inside)) < 100_000
    assert len(page) < 1_000_000


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--output=photos/train/cat/00.png", "must be a folder"),
        ("--output=photos/train/cat/00.png/x", "cannot write to"),
        ("--fix=photos", "--fix must be a file"),
        ("--fix=photos/train/cat/00.png/x", "cannot write to"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_places_that_cannot_be_written_are_one_line(
    capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    assert message in refused(capsys, "check", *FOLDER, setting)


@pytest.mark.heavy
@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="needs MNIST")
def test_mnist_has_no_copies_and_few_alarms() -> None:
    main(["check", "--config=configs/mnist.yaml", f"--data.root={REAL_MNIST}", "--output=found"])
    found = json.loads(Path("found/check.json").read_text(encoding="utf-8"))
    assert found["faults"] == found["exact_duplicates"] == found["outliers"] == []
    assert len(found["near_duplicates"]) <= 40
