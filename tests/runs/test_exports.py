"""Exported versions are complete, checked before use, and switched in one step."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src import UserError
from src.runs.exports import Models
from tests.conftest import ROOT
from tests.served import publish as publish_model

INFO = {"format": 1, "name": "digits", "task": "Classifier", "kind": "classes", "file": "model.onnx", "classes": None}
INFO |= {"input": {"name": "images", "shape": [1, 8, 8]}, "outputs": []}


def publish(models: Models, **info) -> None:
    with models.draft() as draft:
        (draft / "model.onnx").write_bytes(b"net")
        (draft / "model.json").write_text(json.dumps(INFO | info), encoding="utf-8")
        models.publish(draft)


@pytest.fixture
def models() -> Models:
    models = Models(Path("models/digits"))
    for name in ("a", "b", "c"):
        publish(models, name=name)
    return models


def test_versions_are_numbered_and_nothing_else_is_left(models):
    assert models.numbers() == [1, 2, 3]
    assert sorted(each.name for each in models.path.iterdir()) == ["1", "2", "3"]
    assert [models.load(n).info["name"] for n in models.numbers()] == ["a", "b", "c"]
    assert models.load(1).shape == (1, 8, 8)


def test_a_draft_that_fails_leaves_nothing(models):
    with pytest.raises(TypeError), models.draft() as draft:
        (draft / "model.onnx").write_bytes("no bytes")
    assert models.numbers() == [1, 2, 3]
    assert len([*models.path.iterdir()]) == 3


def test_the_current_version_is_chosen_and_the_one_before_it_comes_back(models):
    assert models.current is None
    assert models.use(1).number == 1
    assert models.use(3).number == 3
    assert models.candidate is None
    assert models.roll_back().number == models.current == 1  # 2 was never current
    assert models.rejection(3) == "rolled back to version 1"
    assert models.candidate is None
    with pytest.raises(
        UserError, match="has no version that was current before version 1; choose one with --use N: 1, 2, 3"
    ):
        models.roll_back()
    with pytest.raises(UserError, match="has no version 7, only 1, 2, 3"):
        models.use(7)


def test_rolling_back_twice_goes_further_back(models):
    for number in (2, 1, 3):
        models.use(number)
    assert [models.roll_back().number for _ in range(2)] == [1, 2]
    models.use(3)
    assert models.rejection(3) is None
    assert (models.rejection(1), models.previous) == ("rolled back to version 2", [2])


def test_a_version_to_go_back_to_must_be_usable(models):
    for number in (1, 2, 1, 3):
        models.use(number)
    assert models.previous == [2, 1]
    models.reject(1, "slower")
    assert models.previous == [2]
    (models.path / "2/model.onnx").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"2/model\.onnx is damaged"):
        models.roll_back()
    assert (models.current, models.rejection(3)) == (3, None)
    (models.path / "PREVIOUS").write_text("damaged 7\n", encoding="utf-8")
    assert models.previous == []


def test_a_current_version_that_is_gone_is_rolled_back(models):
    models.use(1)
    models.use(3)
    shutil.rmtree(models.path / "3")
    assert models.roll_back().number == 1
    assert not (models.path / "3").exists()


@pytest.mark.parametrize("content", ["abc", "", "0"])
def test_a_damaged_file_of_the_current_version_is_named(models, content):
    (models.path / "CURRENT").write_text(content, encoding="utf-8")
    with pytest.raises(
        UserError, match=r"models/digits/CURRENT is damaged, it must hold the number of a version: choose"
    ):
        models.roll_back()
    models.use(2)
    assert models.check_current() == 2


def test_the_newest_version_is_the_candidate_until_it_is_rejected(models):
    models.use(1)
    assert models.candidate == 3
    models.reject(3, "more errors than version 1")
    assert models.candidate is None
    models.use(3)
    models.use(1)
    assert models.candidate == 3


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_a_changed_file_is_refused(models, name):
    file = models.path / "2" / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match=f"2/{name} is damaged: its SHA-256 is not that of SHA256SUMS"):
        models.load(2)


def test_a_file_that_is_missing_or_not_listed_is_refused(models):
    (models.path / "1/model.onnx").unlink()
    with pytest.raises(UserError, match=r"1/model\.onnx is missing"):
        models.load(1)
    sums = models.path / "2/SHA256SUMS"
    sums.write_text(
        "".join(line for line in sums.read_text(encoding="utf-8").splitlines(True) if "json" not in line),
        encoding="utf-8",
    )
    with pytest.raises(UserError, match=r"2/model\.json is not listed in"):
        models.load(2)
    sums = models.path / "3/SHA256SUMS"
    sums.write_text(
        "".join(line for line in sums.read_text(encoding="utf-8").splitlines(True) if "onnx" not in line),
        encoding="utf-8",
    )
    with pytest.raises(UserError, match=r"3/model\.json is not of this version of the template"):
        models.load(3)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_reference_of_another_version_of_the_template_is_refused(models, content):
    with models.draft() as draft:
        (draft / "model.onnx").write_bytes(b"net")
        (draft / "model.json").write_text(json.dumps(INFO), encoding="utf-8")
        (draft / "reference.json").write_text(content, encoding="utf-8")
        number = models.publish(draft)
    with pytest.raises(UserError, match=rf"{number}/reference\.json is not of this version of the template"):
        models.load(number)


@pytest.mark.parametrize("info", [{"format": 2}, {"kind": "odd"}, {"file": "../1/model.onnx"}])
def test_what_another_version_of_the_template_wrote_is_refused(models, info):
    publish(models, **info)
    with pytest.raises(UserError, match=r"4/model\.json is not of this version of the template: export it again"):
        models.load(4)


def test_a_folder_without_versions_is_refused_with_a_hint(models):
    with pytest.raises(UserError, match="runs is no folder of exported versions: make one with"):
        Models.find(Path("runs"))
    models.use(1)
    for path in ("models", "models/digits/1"):
        with pytest.raises(UserError, match=f"{path} is no folder of exported versions: you may mean models/digits"):
            Models.find(Path(path))


def test_a_model_is_loaded_without_telemetry(tmp_path):
    publish_model()
    code = "from src.runs.exports import *; import_onnxruntime().InferenceSession('models/digits/1/model.onnx')"
    env = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    (tmp_path / "home").mkdir()
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert [*(tmp_path / "home").iterdir()] == []
