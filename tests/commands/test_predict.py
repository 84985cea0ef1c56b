"""Images are found, outputs become probabilities, and the CSV says all of it."""

import csv
import math
from pathlib import Path

import pytest
import torch

from src import UserError
from src.predictions import expand, predict_table, probabilities, write_csv

ROWS = torch.tensor([[0.5, 0.2, 0.3, 0.0], [0.0, 0.1, 0.1, 0.8]])
CLASSES = ["cat", "dog", "eel", "fox"]


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_images_are_found_in_folders_at_all_levels():
    touch("a/2.png", "a/1.JPG", "a/deep/er/3.webp", "a/notes.txt", "a/.hidden.png", "b/4.gif", "5.data")
    found = expand([Path("b"), Path("a"), Path("5.data")])
    assert [str(path) for path in found] == ["b/4.gif", "a/1.JPG", "a/2.png", "a/deep/er/3.webp", "5.data"]


@pytest.mark.parametrize("odd", ["a/.thumbnails/2.png", "a/folder.png/notes.txt"])
def test_hidden_folders_and_folders_named_like_images_are_passed_over(odd):
    touch("a/1.png", odd)
    assert expand([Path("a")]) == [Path("a/1.png")]


@pytest.mark.parametrize(
    ("path", "message"), [("absent", "--images absent does not exist"), ("a", "a: no image files")]
)
def test_images_that_are_not_there_are_named(path, message):
    touch("a/notes.txt")
    with pytest.raises(UserError, match=message):
        expand([Path(path)])


def test_probabilities_stay_and_logits_are_turned_into_them():
    logits = torch.randn(5, 4) * 3
    assert probabilities([ROWS[:1], ROWS[1:]]).equal(ROWS)
    assert probabilities([ROWS.half()]).allclose(ROWS, atol=1e-3)
    assert probabilities([logits[:3], logits[3:]]).allclose(torch.softmax(logits, 1))
    assert probabilities([logits.abs()]).allclose(torch.softmax(logits.abs(), 1))
    assert probabilities([ROWS.log()]).allclose(ROWS)
    assert probabilities([torch.tensor([[2.0, -1.0]])])[0, 0] == pytest.approx(1 / (1 + math.exp(-3)))


@pytest.mark.parametrize("outputs", [[], [torch.ones(3)], [torch.ones(2, 3, 4)], [("image", ROWS)], [None]])
def test_outputs_that_are_not_rows_of_classes_are_refused(outputs):
    with pytest.raises(UserError):
        probabilities(outputs)


def test_the_csv_holds_each_image_with_its_class_and_all_probabilities():
    write_csv(Path("out.csv"), ["a.png", 'odd, "name".png'], CLASSES, ROWS)
    with Path("out.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["image", "prediction", "probability", *CLASSES]
    assert [line[:3] for line in lines] == [["a.png", "cat", "0.500000"], ['odd, "name".png', "fox", "0.800000"]]
    assert torch.tensor([[float(value) for value in line[3:]] for line in lines]).allclose(ROWS)


def test_a_csv_that_cannot_be_written_is_named():
    with pytest.raises(UserError, match=r"cannot write absent/out\.csv: No such file .*--output"):
        write_csv(Path("absent/out.csv"), ["a", "b"], CLASSES, ROWS)


def test_the_table_names_the_three_most_probable_classes():
    table = predict_table(["a.png", "b.png"], CLASSES, ROWS)
    assert table == [("a.png", "cat 50.0%  eel 30.0%  dog 20.0%"), ("b.png", table[1][1])]
    assert table[1][1].startswith("fox 80.0%")
    assert predict_table(["a"], CLASSES[:2], ROWS[:, :2])[0][1] == "cat 50.0%  dog 20.0%"


def test_a_long_table_ends_with_the_number_of_the_others():
    table = predict_table([f"{i}.png" for i in range(50)], CLASSES, ROWS.repeat(25, 1), most=7)
    assert len(table) == 8
    assert table[-1] == ("...", "43 more")
