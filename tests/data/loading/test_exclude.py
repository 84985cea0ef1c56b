"""data.exclude: named samples are left out of every split, and nothing else changes."""

from pathlib import Path

import pytest
from PIL import Image

from src import UserError
from src.cli import main
from src.data import Diabetes, Digits, ImageFolder
from tests.conftest import SMALL, refused


def exclude(*names: str) -> str:
    Path("out.txt").write_text("\n".join(names), encoding="utf-8")
    return "out.txt"


def ready(data):
    data.setup("fit")
    data.setup("test")
    return data


def test_named_samples_leave_their_splits_and_the_folds_stay_the_same():
    whole, data = ready(Digits()), ready(Digits(exclude=exclude("train/3", "train/700", "test/5", "")))
    gone = {"train": {3, 700}, "val": {3, 700}, "test": {5}, "predict": {5}}
    for split, samples in whole.splits.items():
        assert data.splits[split].index.tolist() == [i for i in samples.index.tolist() if i not in gone[split]]
    assert ("left out", "2 train, 1 test samples, named in out.txt") in [
        (name, text.replace("1 train, 1 val", "2 train")) for name, text in data.describe_splits()
    ]


def test_a_list_from_windows_is_read():
    Path("out.txt").write_bytes(b"\xef\xbb\xbftrain/3\r\n train/700 \r\n")
    assert Digits(exclude="out.txt").excluded == {"train/3", "train/700"}


def test_a_list_of_all_test_samples_is_refused_before_training():
    names = [f"test/{i}" for i in range(360)]
    with pytest.raises(UserError, match="leaves no test samples"):
        Digits(exclude=exclude(*names)).setup("fit")


@pytest.mark.parametrize(("first", "notes"), [(0, ["train", "val"]), (20, [])])
def test_a_class_without_samples_after_exclusion_is_noted(first: int, notes: list[str]):
    targets = Digits().load(train=True)[1]
    data = Digits(exclude=exclude(*[f"train/{i}" for i in (targets == 3).nonzero()[first:, 0].tolist()]))
    data.setup("fit")
    lines = [f"{split} has no samples left of 1 classes: 3" for split in notes]
    assert [text for name, text in data.describe_splits() if name == "note"] == lines


def test_other_exclusions_have_other_hashes():
    states = [
        ready(Digits(exclude=each and exclude(each))).state_dict() for each in (None, "train/3", "test/5", "test/6")
    ]
    assert len({state["split_hash"] for state in states}) == 2
    assert states[0]["test_hash"] == states[1]["test_hash"] == ""
    assert len({state["test_hash"] for state in states}) == 3
    for order in (("fit", "test"), ("test", "fit")):  # in either order
        data = Digits(exclude=exclude("test/6"))
        for stage in order:
            data.setup(stage)
        assert data.state_dict()["test_hash"] == states[3]["test_hash"]
        with pytest.raises(UserError, match="exclude"):
            data.load_state_dict(states[2])


def test_an_image_folder_leaves_out_files_and_keeps_its_other_test_images():
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (4, 4), 20 * i + len(name)).save(f"photos/{name}/{i}.bmp")
    Path("photos/cat/bad.png").write_text("no picture", encoding="utf-8")
    settings = {"root": "photos", "size": 4, "channels": 1, "folds": 2}
    with pytest.warns(UserWarning, match="skipped 1 of 21 images"):
        before = ready(ImageFolder(**settings, on_bad_image="skip"))
    gone = [before.sample_names("train", 0)[0], before.files["test"][1]]
    after = ready(ImageFolder(**settings, exclude=exclude("cat/bad.png", *gone)))
    names = [after.files["test"][i] for i in after.splits["test"].index.tolist()]
    assert names == [name for name in before.files["test"] if name != gone[1]]
    assert len(after.splits["train"]) + len(after.splits["val"]) == 15
    assert after.normalize.mean.isfinite().all()
    with pytest.raises(UserError, match=r"cannot decode photos/cat/bad\.png"):
        ready(ImageFolder(**settings, exclude=exclude(*gone)))


def test_rows_of_a_table_are_left_out_by_number():
    whole, data = ready(Diabetes()), ready(Diabetes(exclude=exclude("row 2", "row 3")))
    assert sum(len(whole.splits[s]) - len(data.splits[s]) for s in ("train", "val", "test")) == 2


@pytest.mark.parametrize("name", ["train/99999", "test/360", "photo.png"])
def test_a_name_that_matches_nothing_is_refused_before_training(name: str):
    with pytest.raises(UserError, match=rf"{name}, and 1 others in out\.txt must name samples, as train/0"):
        Digits(exclude=exclude(name, "zzz")).setup("fit")


def test_a_missing_file_of_names_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert "cannot read none.txt" in refused(capsys, "fit", *SMALL, "--data.exclude=none.txt")


def test_predictions_are_named_by_index_in_the_data_set():
    main(["fit", *SMALL, "--trainer.max_epochs=1", f"--data.exclude={exclude('test/0', 'test/2')}"])
    main(["predict", "--run=runs/digits/version_0"])
    names = [
        line.split(",")[0]
        for line in Path("runs/digits/version_0/predictions.csv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    assert names[:2] == ["test/1", "test/3"]
    assert len(names) == 358
