"""Table: what scikit-learn makes of the same rows, measured on the training split alone."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from src import UserError, load_run
from src.cli import main
from src.data import Table
from tests.conftest import refused

HEAD = ["age", "city", "size", "price"]
MODEL = ["--model=src.tasks.Regressor", "--model.net=src.nets.MLP", "--model.net.image_shape=[5,1,1]"]
MODEL += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.01", "--trainer.max_epochs=1"]
FIT = ["fit", "--data=src.data.Table", "--data.file=t.csv", "--data.root=.", "--data.batch_size=16", *MODEL]


def rows(count: int = 60, gaps: bool = False) -> list[list[str]]:
    draw = np.random.default_rng(0)
    table = []
    for i in range(count):
        age, size = draw.normal(2000, 3), draw.normal()
        row = [f"{age:.3f}", ["Ulm", "Bonn", "Kiel"][i % 3], f"{size:.3f}", f"{age - size:.3f}"]
        if gaps and i % 7 == 0:
            row[i % 3] = ["", "NA", "?"][i % 3]
        table.append(row)
    return table


def write(table: list[list[str]], head: list[str] = HEAD) -> None:
    with Path("t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *table])


def prepared(**settings) -> Table:
    data = Table(**{"file": "t.csv", "target": "price", "root": ".", "batch_size": 16, **settings})
    data.setup("fit")
    data.setup("test")
    return data


@pytest.mark.parametrize("missing", ["mean", "median"])
def test_inputs_are_those_of_scikit_learns_transformers(missing: str) -> None:
    table = rows(gaps=True)
    write(table)
    data = prepared(missing=missing)
    train, val, test = (data.splits[name] for name in ("train", "val", "test"))
    everything, _ = Table("t.csv", "price", root=".", missing=missing).load(train=True)  # raw
    raw = np.array([[np.nan if value is None else value for value in row] for row in everything], dtype=object)
    number = make_pipeline(SimpleImputer(strategy=missing), StandardScaler())
    city = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(sparse_output=False))
    oracle = ColumnTransformer([("age", number, [0]), ("city", city, [1]), ("size", number, [2])])
    oracle.fit(raw[train.index.numpy()])
    for split in (train, val):
        inputs = split.images[split.index].flatten(1)
        assert np.allclose(inputs, oracle.transform(raw[split.index.numpy()]).astype(float), atol=1e-5)
    assert test.images.shape == (12, 5, 1, 1)


def test_only_the_training_split_is_measured() -> None:
    write(rows())
    data = prepared()
    table = rows()
    everything = [float(row[0]) for row in table]
    order = {value: i for i, value in enumerate(everything)}
    raw, _ = Table("t.csv", "price", root=".").load(train=True)
    used = {order[raw[i][0]] for i in data.splits["train"].index.tolist()}
    for i in {*range(60)} - used:
        table[i] = ["1e6", "Rome", "-1e6", "5"]
    write(table)
    changed = prepared()
    assert changed.measured == data.measured
    unknown = changed.splits["test"].images[:, 1:4]
    assert not unknown.any()


def test_rows_with_gaps_are_dropped_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write(rows(gaps=True))
    assert sum(len(prepared(missing="drop").splits[name]) for name in ("train", "val", "test")) == 60 - 9
    line = refused(capsys, *FIT, "--data.target=price")
    assert "t.csv, row 2: age is missing; repair it, or set data.missing to drop, mean or median" in line


def test_a_checkpoint_holds_what_was_measured() -> None:
    write(rows(gaps=True))
    x = main([*FIT, "--data.target=price", "--data.missing=mean"])
    _, data = load_run(x.run.path)
    data.setup("test")
    assert data.splits["test"].images.equal(x.data.splits["test"].images)
    main(["test", f"--run={x.run.path}"])


@pytest.mark.parametrize("change", ["rows", "test_fraction"])
def test_a_table_that_would_mix_the_splits_is_refused(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(rows())
    x = main([*FIT, "--data.target=price"])
    main(["test", f"--run={x.run.path}"])
    args = []
    if change == "rows":
        write(rows()[::-1])
    else:
        args = ["--data.test_fraction=0.3"]
    line = refused(capsys, "test", f"--run={x.run.path}", *args)
    assert "the checkpoint was trained on another split of the data" in line


def test_predictions_name_the_rows_of_the_file() -> None:
    write(rows(gaps=True))
    x = main([*FIT, "--data.target=price", "--data.missing=drop"])
    main(["predict", f"--run={x.run.path}"])
    table = rows(gaps=True)
    with (x.run.path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            row = table[int(line["image"].removeprefix("row ")) - 2]
            assert float(row[3]) == pytest.approx(float(line["true"]), abs=1e-3)


def test_a_column_of_text_is_predicted_as_classes() -> None:
    write(rows())
    data = prepared(target="city")
    assert data.class_names == ["Bonn", "Kiel", "Ulm"]
    assert data.splits["train"].targets.bincount().tolist() == [16, 16, 16]
    assert prepared(target=["price", "size"]).splits["train"].targets.shape == (48, 2)


def test_a_constant_column_is_zero() -> None:
    write([[row[0], "Ulm", "7.3", row[3]] for row in rows()])
    inputs = prepared().splits["train"].images
    assert inputs[:, 2].abs().max() < 1e-9
    assert torch.isfinite(inputs).all()


def test_a_value_that_training_never_saw_stays_small() -> None:
    table = [[row[0], "Ulm", "7.3", row[3]] for row in rows()]
    write(table)
    row = int(prepared().files["test"][0].removeprefix("row "))
    table[row - 2][1:3] = ["Rome", "9.3"]
    write(table)
    data = prepared()
    first = next(iter(data.test_dataloader()))[0][0].flatten()
    train = np.array([[1.0, 7.3]] * 43)  # whether the city is Ulm, and the size
    oracle = StandardScaler().fit(train).transform([[0.0, 9.3]])[0]
    assert first[1:].tolist() == pytest.approx(oracle, abs=1e-5)


def test_numbers_are_classes_on_request() -> None:
    labels = [10, 2, 0]
    write([[*row[:3], f"{labels[i % 3]}"] for i, row in enumerate(rows())])
    data = prepared(classes=True)
    assert data.class_names == ["0", "2", "10"]
    names = [labels[(int(name.removeprefix("row ")) - 2) % 3] for name in data.files["test"]]
    assert [int(data.class_names[k]) for k in data.splits["test"].targets] == names
    x = main(
        [*FIT, "--data.target=price", "--data.classes=true", "--model=src.tasks.Classifier", "--model.num_classes=3"]
    )
    assert x.trainer.callback_metrics["test/accuracy"] >= 0


def test_a_column_without_a_name_is_no_input() -> None:
    write([[str(i), *row] for i, row in enumerate(rows())], ["", *HEAD])
    data = prepared()
    assert data.splits["train"].images.shape[1] == 5
    assert data.describe_splits() == [("note", "t.csv: a column without a name, such as an index, is not used")]


@pytest.mark.parametrize("measured", [None, 5, [], [[1]] * 3, "abc", [(0.0, 0.0, 1.0)] * 3])
def test_a_checkpoint_of_other_measurements_is_one_line(measured, capsys: pytest.CaptureFixture[str]) -> None:
    write(rows())
    x = main([*FIT, "--data.target=price"])
    for file in (x.run.path / "checkpoints").iterdir():
        content = torch.load(file, weights_only=True)
        content["Table"]["measured"] = measured
        torch.save(content, file)
    line = refused(capsys, "test", f"--run={x.run.path}")
    assert "the statistics in the checkpoint are not of the columns of t.csv" in line


@pytest.mark.parametrize(
    ("table", "args", "line"),
    [
        (rows(), ["--data.target=cost"], "t.csv has no column cost; it has age, city, size, price"),
        (
            [*rows(), ["old", "Ulm", "1", "2"]],
            ["--data.target=price"],
            "row 62: age must be a number as in row 61, got 'old'",
        ),
        ([*rows(), ["1", "Ulm", "1"]], ["--data.target=price"], "row 62 must have 4 fields as the header, got 3"),
        ([*rows(), ["1", "Ulm", "1", ""]], ["--data.target=price", "--data.missing=mean"], "row 62: price is missing"),
        (
            [*rows(), ["inf", "Ulm", "1", "2"]],
            ["--data.target=price"],
            "row 62: age must be a finite number below 3e+38, got inf",
        ),
        (
            [*rows(gaps=True), ["old", "Ulm", "1", "2"]],
            ["--data.target=price", "--data.missing=drop"],
            "row 62: age must be a number as in row 61, got 'old'",
        ),
        (rows(), ["--data.target=[price,city]"], "the target column city has text, such as 'Ulm'"),
        (rows(1), ["--data.target=price"], "must have a header and at least two rows, got 1 rows"),
        (rows(), ["--data.target=price", "--data.columns=[age,price]"], "name each column once, got price several"),
        (rows(), ["--data.target=[price,price]"], "must name each column once, got price several times"),
        (rows(), ["--data.target=[]"], "target and columns must name columns, got [] and None"),
        (rows(), ["--data.target=price", "--data.columns=[]"], "must name columns, got price and []"),
        (rows(), ["--data.target=[price,size]", "--data.classes=true"], "classes needs one target, got price, size"),
        (
            rows(2),
            ["--data.target=city"],
            "cannot hold out 20% of t.csv for testing, which needs at least 2 samples of",
        ),
        (
            rows(),
            ["--data.target=price", "--model.tta=mirror_shift"],
            "tta must not be mirror_shift: the inputs are one pixel high or wide",
        ),
        (
            [[*row[:3], str(i % 2)] for i, row in enumerate(rows())],
            ["--data.target=price", "--model=src.tasks.Classifier", "--model.num_classes=2"],
            "needs classes as targets, integers (N,), got torch.float32 (48,); for a table, set data.classes",
        ),
        (rows(), ["--data.target=city"], "Regressor needs targets that are numbers (floats), got torch.int64"),
    ],
)
def test_a_bad_table_is_one_line(table, args: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(table)
    assert line in refused(capsys, *FIT, *args)


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot read the table t.csv: No such file or directory" in refused(capsys, *FIT, "--data.target=price")


def test_a_table_without_inputs_is_one_line() -> None:
    write([[row[3]] for row in rows()], ["price"])
    with pytest.raises(UserError, match=r"t.csv has no column but the target price: add inputs"):
        prepared()


def test_a_home_folder_of_a_table_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    write(rows())
    assert len(prepared(file="~/t.csv", root="elsewhere").splits["train"]) == 43
