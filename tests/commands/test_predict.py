"""predict: image files are found, outputs become probabilities, and the CSV holds all of them."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from src import UserError
from src.cli import main
from src.commands.predict import expand
from src.data import Digits
from src.runs import neighbors
from src.runs.predictions import columns, predictions_table, probabilities, write_csv
from src.tasks import Classifier
from tests.conftest import SMALL, needs_posix, refused

ROWS = torch.tensor([[0.5, 0.2, 0.3, 0.0], [0.0, 0.1, 0.1, 0.8]])
CLASSES = ["cat", "dog", "eel", "fox"]


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def table(file: str | Path) -> list[list[str]]:
    return list(csv.reader(Path(file).read_text(encoding="utf-8").splitlines()))


def test_images_are_found_in_folders_at_any_depth() -> None:
    touch("a/2.png", "a/1.JPG", "a/deep/er/3.webp", "a/notes.txt", "a/.hidden.png", "b/4.gif", "5.data")
    found = expand([Path("b"), Path("a"), Path("5.data")])
    assert [str(path) for path in found] == ["b/4.gif", "a/1.JPG", "a/2.png", "a/deep/er/3.webp", "5.data"]


@pytest.mark.parametrize("other", ["a/.thumbnails/2.png", "a/folder.png/notes.txt"])
def test_hidden_folders_and_folders_named_like_images_are_skipped(other: str) -> None:
    touch("a/1.png", other)
    assert expand([Path("a")]) == [Path("a/1.png")]


@pytest.mark.parametrize(
    ("path", "message"), [("absent", "--images absent does not exist"), ("a", "--images a: no image files found")]
)
def test_missing_images_are_refused(path: str, message: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch("a/notes.txt")
    assert message in refused(capsys, "predict", f"--run={trained}", "--images", path)


@needs_posix
def test_a_pipe_is_refused_instead_of_waited_for() -> None:
    os.mkfifo("photo.png")
    with pytest.raises(UserError, match=r"--images photo.png must be a file or folder"):
        expand([Path("photo.png")])


def test_probabilities_are_told_from_other_outputs() -> None:
    assert probabilities([ROWS[:1], ROWS[1:]]).equal(ROWS)
    assert probabilities([ROWS.half()]).allclose(ROWS, atol=1e-3)
    others = [torch.ones(3)], [torch.ones(2, 1)], [torch.ones(2, 3, 4)], [("image", ROWS)], [None], [ROWS, ROWS[:, :2]]
    for outputs in ([], [torch.randn(5, 4) * 3], [2 * ROWS], [ROWS.log()], *others):
        assert probabilities(outputs) is None


@pytest.mark.parametrize(
    ("outputs", "table"),
    [
        ([torch.tensor([3, 4]), torch.tensor([5])], {"value": [3, 4, 5]}),
        ([torch.tensor([[0.5, -2.0]])] * 2, {"value_0": [0.5, 0.5], "value_1": [-2.0, -2.0]}),
        ([torch.arange(4).view(1, 2, 2)], {f"value_{i}": [i] for i in range(4)}),
        ([{"score": torch.ones(2), "name": ["a", "b"]}], {"score": [1.0, 1.0], "name": ["a", "b"]}),
        ([(torch.ones(1, 2), torch.zeros(1))], {"output_0_0": [1.0], "output_0_1": [1.0], "output_1": [0.0]}),
        ([["a"], ["b"]], {"value": ["a", "b"]}),
        ([torch.tensor(2.0), 3.0], {"value": [2.0, 3.0]}),
    ],
    ids=["classes", "rows", "images", "dictionary", "tuple", "texts", "scalars"],
)
def test_other_outputs_become_columns_unchanged(outputs: list, table: dict) -> None:
    assert columns(outputs) == table


def test_outputs_without_a_value_for_each_sample_are_refused() -> None:
    assert columns([]) == columns([None]) == {}  # a predict_step that writes files itself
    with pytest.raises(UserError, match="predict_step must return the same number of values for each sample, got"):
        columns([{"a": torch.ones(2), "b": torch.ones(3)}])


def test_the_csv_holds_every_image_with_its_class_and_probabilities() -> None:
    write_csv(Path("out.csv"), ["a.png", 'odd, "name".png'], CLASSES, ROWS)
    with Path("out.csv").open(encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["image", "prediction", "probability", *CLASSES]
    assert [line[:3] for line in lines] == [["a.png", "cat", "0.500000"], ['odd, "name".png', "fox", "0.800000"]]
    assert torch.tensor([[float(value) for value in line[3:]] for line in lines]).allclose(ROWS)


def test_a_csv_that_cannot_be_written_is_named() -> None:
    with pytest.raises(UserError, match=r"cannot write absent/out\.csv: No such file .*--output"):
        write_csv(Path("absent/out.csv"), ["a", "b"], CLASSES, ROWS)


def test_the_table_shows_the_three_most_probable_classes() -> None:
    rows = predictions_table(["a.png", "b.png"], CLASSES, ROWS)
    assert rows == [("a.png", "cat 50.0%  eel 30.0%  dog 20.0%"), ("b.png", rows[1][1])]
    assert rows[1][1].startswith("fox 80.0%")
    assert predictions_table(["a"], CLASSES[:2], ROWS[:, :2])[0][1] == "cat 50.0%  dog 20.0%"


def test_a_long_table_ends_with_the_number_of_other_images() -> None:
    rows = predictions_table([f"{i}.png" for i in range(50)], CLASSES, ROWS.repeat(25, 1), limit=7)
    assert len(rows) == 8
    assert rows[-1] == ("...", "43 more")


def test_predict_names_the_classes_of_the_test_split(trained: Path) -> None:
    (trained / "checkpoints/last.ckpt").unlink()  # predict uses the best
    main(["predict", f"--run={trained}"])
    head, *lines = table(trained / "predictions.csv")
    assert head == ["image", "prediction", "probability", *map(str, range(10)), "true"]
    _, targets = Digits().load(train=False)
    right = np.mean([int(line[1]) == target for line, target in zip(lines, targets.tolist(), strict=True)])
    assert right == pytest.approx(json.loads((trained / "results.json").read_text(encoding="utf-8"))["test/accuracy"])
    assert [int(line[-1]) for line in lines] == targets.tolist()
    assert all(sum(map(float, line[3:-1])) == pytest.approx(1, abs=1e-4) for line in lines)


def test_image_files_are_predicted_like_the_same_pixels_of_the_test_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, trained: Path
) -> None:
    images, _ = Digits().load(train=False)
    Path("photos/deep").mkdir(parents=True)
    Image.fromarray(images[0, 0].numpy()).save("photos/0.png")
    Image.fromarray(images[1, 0].numpy()).convert("RGB").save("photos/deep/1.BMP")
    Image.fromarray(images[2, 0].numpy().astype(np.uint16) * 257).save("photos/2.png")
    Image.fromarray(images[3, 0].numpy()).convert("RGB").convert("CMYK").save("3.tiff")
    main(["predict", f"--run={trained}", "--output=all.csv"])
    capsys.readouterr()
    monkeypatch.setattr(Digits, "load", None)  # no data set is needed
    main(["predict", f"--run={trained}", "--output=files.csv", "--images", "photos", "3.tiff"])
    out = capsys.readouterr().out
    assert re.search(r"^photos/0.png +\d \d+\.\d%  \d \d+\.\d%  \d \d+\.\d%$", out, re.M)
    expected, got = ({row[0]: row[1:] for row in table(file)} for file in ("all.csv", "files.csv"))
    places = {"photos/0.png": 0, "photos/deep/1.BMP": 1, "photos/2.png": 2, "3.tiff": 3}
    assert got.keys() == {"image", *places}
    for name, place in places.items():
        same_pixels = expected[f"test/{place}"]
        assert got[name][0] == same_pixels[0]
        assert [float(p) for p in got[name][2:]] == pytest.approx([float(p) for p in same_pixels[2:-1]], abs=2e-2)


def fit_noise(*settings: str) -> list[str]:
    """Train on noise of two classes; return the arguments that predict with the run."""
    generator = np.random.default_rng(0)
    for name in "ab":
        Path(f"images/train/{name}").mkdir(parents=True)
        for i in range(20):
            Image.fromarray(generator.integers(0, 255, (8, 8, 3), np.uint8)).save(f"images/train/{name}/{i}.png")
    data = ["--data=src.data.ImageFolder", "--data.root=images", "--data.size=8", "--data.batch_size=8"]
    data += ["--data.folds=4", "--model.num_classes=2", "--model.net.image_shape=[3,8,8]", *settings]
    main(["fit", *SMALL, *data, "--trainer.max_epochs=1"])
    return ["predict", "--run=runs/digits/version_0"]


@pytest.mark.filterwarnings("default:cannot decode")
@pytest.mark.parametrize("settings", [[], ["--data.on_bad_image=skip"]])
def test_predict_names_images_that_cannot_be_decoded_and_predicts_the_rest(
    settings: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = fit_noise()
    Path("new").mkdir()
    for name in "acd":
        Image.new("L", (30, 20), 120).save(f"new/{name}.png")
    for name in "be":
        Path(f"new/{name}.png").write_text("no image", encoding="utf-8")
    Path("new/f.heic").touch()
    opened: list[str] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda file, **kwargs: opened.append(file.name) or real(file, **kwargs))
    capsys.readouterr()
    main([*predict, "--images", "new", *settings], owns_process=True)
    out, err = capsys.readouterr()
    assert err == "".join(f"warning: cannot decode new/{name}.png: not a readable image\n" for name in "be")
    assert sorted(opened) == [f"{name}.png" for name in "abcde"]  # each once
    assert "left out  1 .heic" in out
    written = Path("runs/digits/version_0/predictions.csv")
    assert [row[0] for row in table(written)[1:]] == [f"new/{name}.png" for name in "acd"]
    Path("new/only").mkdir()
    Path("new/b.png").rename("new/only/b.png")
    with pytest.warns(UserWarning, match="cannot decode new/only/b"):
        error = refused(capsys, *predict, "--images", "new/only")
    assert "none of 1 files can be decoded" in error
    main(predict)
    assert {row[0].split("/")[0] for row in table(written)[1:]} == {"train"}  # held-out images, by their names
    assert len(table(written)) == 9
    # others would be held out, among them some that were trained on
    error = refused(capsys, "test", "--run=runs/digits/version_0", "--data.test_fraction=0.5")
    assert "trained on another split" in error


def draw_digits(folder: str, invert: bool, count: int = 60) -> None:
    images, targets = Digits().load(train=False)
    for i, (image, target) in enumerate(zip(images[:count, 0].numpy(), targets.tolist(), strict=False)):
        Path(folder, str(target)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - image if invert else image).save(f"{folder}/{target}/{i}.png")


def test_folders_named_like_classes_give_accuracy_and_confusion(
    capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    draw_digits("photos", invert=False)
    Path("photos/other").mkdir()
    Image.new("L", (8, 8)).save("photos/other/0.png")
    main(["predict", f"--run={trained}", "--images", "photos"])
    out = capsys.readouterr().out
    lines = [row for row in table(trained / "predictions.csv")[1:] if "other" not in row[0]]
    pairs = [(int(row[0].split("/")[1]), int(row[1])) for row in lines]
    expected = np.zeros((10, 10), dtype=int)
    for true, predicted in pairs:
        expected[true, predicted] += 1
    head, *counts = table(trained / "confusion.csv")
    assert head == ["class", *map(str, range(10))]
    assert [row[0] for row in counts] == head[1:]
    assert [[int(cell) for cell in row[1:]] for row in counts] == expected.tolist()
    right = int(expected.trace())
    assert f"accuracy    {right / 60:.4f}, {right} of 60 images\n" in out
    assert "unlike" not in out
    main(["predict", f"--run={trained}", "--images", "photos/3", *map(str, sorted(Path("photos/4").iterdir())[:2])])
    of_3_and_4 = sum(true == 3 for true, _ in pairs) + 2
    assert f" of {of_3_and_4} images" in capsys.readouterr().out


def test_the_test_split_gives_the_accuracy_of_its_results(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    main(["predict", f"--run={trained}"])
    accuracy = json.loads((trained / "results.json").read_text(encoding="utf-8"))["test/accuracy"]
    assert f"accuracy    {accuracy:.4f}, " in capsys.readouterr().out


def test_inverted_images_are_noticed_and_invert_turns_them_back(
    capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    draw_digits("white", invert=True)
    draw_digits("black", invert=False)
    rows = []
    for folder, *option in (("white",), ("white", "--invert"), ("black",), ("black", "--invert")):
        capsys.readouterr()
        main(["predict", f"--run={trained}", "--images", folder, *option])
        noticed = "60 of 60 images are unlike the training images" in capsys.readouterr().out
        assert noticed == (len(option) == (folder == "black"))
        rows.append([row[1:] for row in table(trained / "predictions.csv")])
    assert rows[1] == rows[2]
    assert rows[0] == rows[3] != rows[1]
    assert "--invert needs --images" in refused(capsys, "predict", f"--run={trained}", "--invert")


def test_the_note_names_the_option_that_helps(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    draw_digits("white", invert=True, count=5)
    main(["predict", f"--run={trained}", "--images", "white"])
    assert "try it with --invert" in capsys.readouterr().out
    checkpoint = trained / "checkpoints/best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["Digits"].pop("typical")  # as in older checkpoints
    torch.save(content, checkpoint)
    main(["predict", f"--run={trained}", "--images", "white"])
    assert "unlike" not in capsys.readouterr().out


def test_a_test_folder_alone_is_tested(capsys: pytest.CaptureFixture[str]) -> None:
    fit_noise()
    for name in "ab":
        Path(f"alone/test/{name}").mkdir(parents=True)
        for i in range(3):
            Image.new("L", (8, 8), 100 + i).save(f"alone/test/{name}/{i}.png")
    capsys.readouterr()
    main(["test", "--run=runs/digits/version_0", "--data.root=alone"])
    assert "accuracy       0.5000" in capsys.readouterr().out
    Path("alone/test/b").rename("alone/test/c")
    error = refused(capsys, "test", "--run=runs/digits/version_0", "--data.root=alone")
    assert "not in both: b, c" in error


def test_a_file_name_that_is_not_utf_8_is_kept(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("L", (8, 8)).save(name)
    main(["predict", f"--run={trained}", "--images", name])
    assert b"caf\xe9.png," in (trained / "predictions.csv").read_bytes()
    assert "caf\\udce9.png" in capsys.readouterr().out


def test_predictions_are_kept_when_others_follow(trained: Path) -> None:
    for limit in (1, 2, 3):
        main(["predict", f"--run={trained}", f"--trainer.limit_predict_batches={limit}"])
    files = ("predictions_0.csv", "predictions_1.csv", "predictions.csv")
    lengths = [len(table(trained / name)) for name in files]
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_file_of_predictions_is_whole_or_as_it_was() -> None:
    write_csv(Path("out.csv"), ["a", "b"], CLASSES, ROWS)
    before = Path("out.csv").read_bytes()
    with pytest.raises(ValueError, match="zip"):
        write_csv(Path("out.csv"), ["a"], CLASSES, ROWS)
    assert Path("out.csv").read_bytes() == before


def sheets(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str]]]:
    """Let the classifier return the pixels of each image; return the captions of each sheet, filled later."""
    found: list[list[tuple[str, str]]] = []
    monkeypatch.setattr(Classifier, "predict_step", lambda _, images, __: normalize(images.flatten(1)))
    captions = lambda figure: [tuple(cell.get_xlabel().split("\n")) for cell in figure.axes]  # noqa: E731
    monkeypatch.setattr(neighbors, "save_figure", lambda figure, _: found.append(captions(figure)))
    return found


def test_embeddings_of_the_test_split_get_neighbors_and_a_projector(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", f"--run={trained}"])
    assert not [*trained.glob("*neighbors*")]  # of probabilities
    found = sheets(monkeypatch)
    for _ in range(2):
        main(["predict", f"--run={trained}"])
    out = capsys.readouterr().out
    assert f"projector  tensorboard --logdir {trained}/predictions_projector" in out
    assert (trained / "predictions_projector_0/projector_config.pbtxt").is_file()
    images, targets = Digits().load(train=False)
    flat = images.flatten(1).double()
    mean, std = (torch.load(trained / "checkpoints/best.ckpt")["Digits"][key][0] for key in ("mean", "std"))
    vectors = normalize((flat - mean) / std)
    expected = []
    for i in range(8):
        cosines = vectors @ vectors[i]
        others = sorted(set(range(360)) - {i}, key=lambda j: -cosines[j])[:8]
        marked = [f"{cosines[j]:.3f}{' ✓' if targets[j] == targets[i] else ''}" for j in others]
        labels = [str(int(targets[j])) for j in others]
        expected += [(f"test/{i}", str(int(targets[i]))), *zip(marked, labels, strict=True)]
    assert found == [expected, expected]


def test_queries_are_searched_among_the_images_but_never_find_themselves(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_digits("photos", invert=False, count=30)
    found = sheets(monkeypatch)
    queries = sorted(Path("photos/3").iterdir())[:1]
    shutil.copy(queries[0], "copy.png")
    main(["predict", f"--run={trained}", "--images", "photos", "--query", "./" + str(queries[0]), "copy.png"])
    (itself, *others), (copied, first, *_) = np.array(found[0]).reshape(2, 9, 2).tolist()
    assert itself == [str(queries[0])[-14:], "3"]
    assert "1.000" not in {similarity[:5] for similarity, _ in others}
    assert all((label == "3") == ("✓" in similarity) for similarity, label in others)
    assert [copied, first] == [["copy.png", ""], ["1.000", "3"]]
    assert len(table(trained / "predictions.csv")) == 31  # the images alone
    main(["predict", f"--run={trained}", "--query", "copy.png"])  # among the test split
    assert found[1][1][0].startswith("1.000")
    assert len(table(trained / "predictions.csv")) == 361
    error = refused(capsys, "predict", f"--run={trained}", "--query", *(["copy.png"] * 33))
    assert "--query takes at most 32 image files" in error
    assert "--query absent does not exist" in refused(capsys, "predict", f"--run={trained}", "--query", "absent")


def test_a_query_needs_embeddings_and_takes_any_rows_of_numbers(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_digits("photos", invert=False, count=3)
    predict = ["predict", f"--run={trained}", "--images", "photos", "--query", "photos"]
    assert "--query needs a model of images that returns embeddings (N, D)" in refused(capsys, *predict)
    assert not (trained / "predictions.csv").exists()
    monkeypatch.setattr(Classifier, "predict_step", lambda _, images, __: 5 * images.flatten(1))
    main(predict[:-2])
    assert not (trained / "predictions_neighbors.png").exists()
    main(predict)
    assert (trained / "predictions_neighbors.png").is_file()
