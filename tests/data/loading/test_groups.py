"""data.groups: folds of whole groups, as scikit-learn makes them."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, StratifiedGroupKFold

from src import UserError
from src.cli import main
from src.data import Digits, ImageFolder, MaskFolder, RotatedDigits, Table
from tests.conftest import SMALL, refused

COUNT = 1437  # training images of Digits
PATIENTS = [f"patient {i * i % 23}" for i in range(COUNT)]


def write(groups: list[str] = PATIENTS, file: str = "groups.csv") -> str:
    with Path(file).open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["name", "group"], *([f"train/{i}", group] for i, group in enumerate(groups))])
    return file


def ready(data: Any) -> Any:
    data.setup("fit")
    return data


def groups_in(data: Any, groups: list[str], split: str) -> set[str]:
    return {groups[i] for i in data.splits[split].index.tolist()}


@pytest.mark.parametrize(("kind", "oracle"), [(Digits, StratifiedGroupKFold), (RotatedDigits, GroupKFold)])
def test_folds_of_groups_are_those_of_scikit_learn(kind: Any, oracle: Any) -> None:
    settings = {"groups": write(), "folds": 4, "split_seed": 3}
    data = ready(kind(fold=2, **settings))
    targets = data.splits["train"].targets
    folds = list(oracle(4, shuffle=True, random_state=3).split(torch.arange(COUNT), targets, PATIENTS))
    train, val = folds[2]
    assert data.splits["train"].index.tolist() == train.tolist()
    assert data.splits["val"].index.tolist() == val.tolist()
    assert not groups_in(data, PATIENTS, "train") & groups_in(data, PATIENTS, "val")


def test_a_fold_for_each_group_leaves_that_one_out() -> None:
    file = write()
    folds = list(LeaveOneGroupOut().split(torch.arange(COUNT), groups=PATIENTS))
    for fold in (0, 5, len(folds) - 1):
        data = ready(Digits(groups=file, folds="groups", fold=fold))
        assert data.splits["val"].index.tolist() == folds[fold][1].tolist()
        assert data.num_folds == len(folds) == len({*PATIENTS})
        assert ("val groups", *groups_in(data, PATIENTS, "val")) in data.describe_splits()
        data.split()  # as after load_run
        assert data.splits["val"].index.tolist() == folds[fold][1].tolist()


def test_other_groups_have_another_hash() -> None:
    other = [f"patient {i % 23}" for i in range(COUNT)]
    hashes = {ready(Digits(groups=each and write(each), folds=4)).split_hash for each in (None, PATIENTS, other)}
    assert len(hashes) == 3


def test_a_class_that_only_one_group_has_is_noted() -> None:
    classes = Digits().load(train=True)[1].tolist()
    data = ready(Digits(groups=write([f"writer {each}" for each in classes]), folds="groups", fold=3))
    assert ("note", "train has no samples left of 1 classes: 3") in data.describe_splits()
    assert data.splits["val"].classes.unique().tolist() == [3]


@pytest.mark.heavy
def test_a_run_trains_and_is_tested_on_a_fold_of_groups(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"--data.groups={write()}", "--data.folds=groups", "--data.fold=1"]
    x = main(["fit", *SMALL, "--trainer.max_epochs=1", *settings])
    assert "val groups" in capsys.readouterr().out
    assert main(["test", f"--run={x.run.path}"]).data.split_hash == x.data.split_hash
    write([f"patient {i % 23}" for i in range(COUNT)])
    assert "groups, or start a new run" in refused(capsys, "validate", f"--run={x.run.path}")


def table(groups: list[str], gap: int | None = None) -> str:
    rows = [[str(i % 7), "" if i == gap else group, "ab"[i % 2]] for i, group in enumerate(groups)]
    with Path("t.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["x", "patient", "y"], *rows])
    return "t.csv"


def test_a_column_of_a_table_groups_its_rows_and_is_no_input() -> None:
    groups = [f"p{i // 5}" for i in range(60)]
    data = Table(table(groups), "y", root=".", groups="patient", folds=3, batch_size=8)
    for stage in ("fit", "test"):
        data.setup(stage)
    names = {split: data.sample_names("test" if split == "test" else "train", 0) for split in ("train", "val", "test")}
    found = {split: {names[split][i] for i in data.splits[split].index.tolist()} for split in names}
    patients = {split: {groups[int(name.split()[1]) - 2] for name in found[split]} for split in found}
    assert sum(map(len, found.values())) == 60
    assert sum(map(len, patients.values())) == 12  # each patient is in one split
    assert 8 <= len(found["test"]) <= 16
    assert data.shape == (1, 1, 1)


def test_rows_without_a_group_are_refused_or_dropped() -> None:
    file = table([f"p{i // 5}" for i in range(60)], gap=7)
    settings: dict[str, Any] = {"root": ".", "groups": "patient", "folds": 3, "batch_size": 8}
    with pytest.raises(UserError, match=r"data\.groups: row 9 has no group in patient"):
        Table(file, "y", **settings).setup("fit")
    data = ready(Table(file, "y", missing="drop", **settings))
    assert "row 9" not in data.train_names
    with pytest.raises(UserError, match="has no column doctor; it has x, patient, y"):
        Table(file, "y", **settings | {"groups": "doctor"}).setup("fit")


def test_masks_are_held_out_in_whole_groups() -> None:
    for kind in ("images", "masks"):
        Path("photos", kind).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (4, 4), i % 2).save(f"photos/{kind}/{i:02}.png")
    lines = [f"images/{i:02}.png,{i // 2}" for i in range(12)]
    Path("g.csv").write_text("\n".join(["name,group", *lines]), encoding="utf-8")
    settings: dict[str, Any] = {"root": "photos", "size": 4, "channels": 1, "batch_size": 2, "folds": 2}
    data = ready(MaskFolder(["no", "yes"], groups="g.csv", **settings))
    held = {int(Path(name).stem) // 2 for name in data.files["test"]}
    assert not held & {int(Path(name).stem) // 2 for name in data.files["train"]}
    assert 1 <= len(held) <= 2


def test_an_image_folder_takes_names_of_files_and_tests_on_other_groups() -> None:
    lines = ["name,group"]
    for name in ("cat", "dog"):
        Path("photos/train", name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (4, 4), 20 * i + len(name)).save(f"photos/train/{name}/{i}.bmp")
            lines.append(f"train/{name}/{i}.bmp,camera {i % 4}")
    Path("g.csv").write_text("\n".join(lines), encoding="utf-8")
    settings: dict[str, Any] = {"root": "photos", "size": 4, "channels": 1, "groups": "g.csv", "batch_size": 4}
    data = ready(ImageFolder(**settings))
    assert data.num_folds == 3
    assert ("note", "folds is 3, the number of groups of training samples, instead of 10") in data.notes
    names = data.sample_names("train", 0)
    cameras = [{int(Path(names[i]).stem) % 4 for i in data.splits[s].index.tolist()} for s in ("train", "val")]
    cameras.append({int(Path(name).stem) % 4 for name in data.files["test"]})
    assert [len(each) for each in cameras] == [2, 1, 1]
    assert set.union(*cameras) == {0, 1, 2, 3}
    Path("photos/train/cat/0.bmp").rename("photos/cat.bmp")
    for name in ("cat", "dog"):
        Path("photos/test", name).mkdir(parents=True)
    Path("photos/cat.bmp").rename("photos/test/cat/0.bmp")
    Path("photos/train/dog/1.bmp").rename("photos/test/dog/1.bmp")
    Path("g.csv").write_text(
        "\n".join([*lines, "test/cat/0.bmp,camera 0", "test/dog/1.bmp,camera 9"]), encoding="utf-8"
    )
    data = ImageFolder(**settings)
    data.read("test")  # as at the start of fit
    assert ("note", "1 groups are also in the test set, such as camera 0") in ready(data).notes


@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        (None, {}, "cannot read the table groups.csv: No such file"),
        ("name,group\ntrain/0,a\ntrain/1,b\n", {}, "train/2, and 1434 other samples have no group in groups.csv"),
        ("file,group\ntrain/0,a\ntrain/1,b\n", {}, "must have the columns name and group, got file, group"),
        ("name,group\ntrain/0,a\ntrain/0,b\n", {}, "row 3: train/0 must have one group, got a and b"),
        ("name,group\ntrain/0,\ntrain/1,b\n", {}, "row 2 must have a name and a group"),
        (["one"] * COUNT, {}, "number of groups of training samples must be at least 2, .*got 1"),
        (["one", *["other"] * (COUNT - 1)], {"folds": 3}, "folds must be at most 2, the number of groups"),
        (["a", "b", *["c"] * (COUNT - 2)], {"folds": "groups", "fold": 3}, r"fold must be in \[0, 3\), got 3"),
    ],
)
def test_groups_that_cannot_be_used_are_refused(content: Any, settings: dict[str, Any], expected: str) -> None:
    if isinstance(content, list):
        write(content)
    elif content is not None:
        Path("groups.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        Digits(groups="groups.csv", **settings).setup("fit")


def test_folds_by_group_need_groups_and_no_separate_validation_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert "folds=groups needs data.groups" in refused(capsys, "fit", *SMALL, "--data.folds=groups")
    assert "folds" in refused(capsys, "fit", *SMALL, "--data.folds=group")
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            Path("photos", split, name).mkdir(parents=True)
            for i in range(3):
                Image.new("L", (4, 4), 20 * i + len(name + split)).save(f"photos/{split}/{name}/{i}.bmp")
    with pytest.raises(UserError, match="there is a separate validation set: remove it"):
        ImageFolder(root="photos", size=4, channels=1, groups="g.csv").setup("fit")
