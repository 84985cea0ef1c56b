"""export: the published file returns what predict does; versions, gates, smaller models, and what is refused."""

import json
import os
import re
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from src import UserError, load_run
from src.cli import main
from src.commands.export import check_data
from src.commands.exports import files, parity, timing, variants
from src.data import Diabetes, Digits
from src.runs.exports import Models, import_onnxruntime
from tests.conftest import refused
from tests.processes import Process

CNN = ["--model.net=src.nets.SmallCNN", "--model.net.width=16", "--data.batch_size=256", "--trainer.max_epochs=1"]
MODELS = Path("models/digits")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUNDS", 2)


def onnx_outputs(version: int, pixels: Any) -> list[np.ndarray]:
    session = import_onnxruntime().InferenceSession(
        MODELS / str(version) / "model.onnx", providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": pixels.numpy()})


def probabilities(run: str | Path, pixels: torch.Tensor) -> torch.Tensor:
    """Return what the net of a run computes, written out."""
    task, data = load_run(run)
    with torch.no_grad():
        return task.net((pixels - data.normalize.mean) / data.normalize.std).softmax(1)


def test_an_export_returns_what_the_net_does(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels, targets = Digits().load(train=False)
    main(["export", f"--run={trained}", "--gate", "test/accuracy>=0.1", "test/loss<9"])
    out = capsys.readouterr().out
    models = Models.find(MODELS)
    version = models.load(1)
    assert models.current == 1
    right = probabilities(trained, pixels)
    for count in (1, 3, len(pixels)):
        np.testing.assert_allclose(onnx_outputs(1, pixels[:count])[0], right[:count], atol=1e-6)
    info = version.info
    accuracy = (right.argmax(1) == targets).double().mean().item()
    metric = info["metrics"]["test/accuracy"]
    assert metric["value"] == pytest.approx(accuracy)
    assert metric["low"] < accuracy < metric["high"]
    assert info["parity"]["samples"] == metric["samples"] == len(pixels)
    assert info["parity"]["max_difference"] < 1e-6
    assert info["parity"]["disagreements"] == 0
    assert {key: info[key] for key in ("name", "task", "kind", "file", "run", "tta", "quantized", "pruned")} == {
        "name": "digits", "task": "Classifier", "kind": "classes", "file": "model.onnx", "run": "digits/version_0",
        "tta": "plain", "quantized": None, "pruned": 0,
    }  # fmt: skip
    assert info["input"] == {"name": "images", "dtype": "uint8", "shape": [1, 8, 8], "scale": None}
    assert info["outputs"] == [{"name": "probabilities", "dtype": "float32", "shape": [10]}]
    assert info["classes"] == [str(i) for i in range(10)]
    assert info["ms"].keys() == {"1", "64"}
    card = (MODELS / "1/card.md").read_text(encoding="utf-8")
    for text in (f"test/accuracy: {accuracy:.4f}, 95 % between", "in 0 decisions", "src.cli serve FOLDER"):
        assert text in card
    assert re.search(r"parity +differs from predict by at most \S+e-\d\d in 360 test pictures, in 0 decisions\n", out)
    for file in (MODELS / "1").iterdir():
        assert str(Path.cwd()) not in file.read_text(errors="ignore", encoding="utf-8")


@pytest.mark.heavy
def test_versions_follow_each_other_and_a_candidate_is_not_used(trained: Path) -> None:
    for option in ("--output=models/digits", "--candidate", "--format=pt2"):
        main(["export", f"--run={trained}", option])
    models = Models.find(MODELS)
    assert models.numbers() == [1, 2, 3]
    assert models.current == 3
    assert models.load(3).info["file"] == "model.pt2"
    pixels = Digits().load(train=False)[0]
    found = torch.export.load(MODELS / "3/model.pt2").module()(pixels)
    assert torch.allclose(found[0], probabilities(trained, pixels), atol=1e-6)
    models.use(1)
    main(["export", f"--run={trained}", "--candidate"])
    assert (models.current, models.candidate) == (1, 4)


def nothing_published() -> bool:
    return not MODELS.parent.exists()


def test_a_missed_gate_publishes_nothing(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = f"--run={trained}"
    accuracy = json.loads(Path(trained, "results.json").read_text(encoding="utf-8"))["test/accuracy"]
    error = refused(capsys, "export", run, f"--gate=test/accuracy>={accuracy}", "--gate_lower")
    assert re.match(r"error: gate missed: test/accuracy is 0\.\d{4}, 95 % between .*, but the worse end of its", error)
    assert nothing_published()


def test_an_export_that_differs_from_predict_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = parity.answers

    def answers(*args: Any) -> Any:
        (found,) = [*right(*args).values()]
        found[7] = np.roll(found[7], 1)
        return {"probabilities": found}

    monkeypatch.setattr(parity, "answers", answers)
    error = refused(capsys, "export", f"--run={trained}", "--tolerance=2")
    assert re.search(
        r"the exported float32 model differs from predict by at most \S+ in 360 test pictures, in 1 decisions", error
    )
    assert "allow it with --tolerance=" not in error
    assert nothing_published()


@pytest.mark.heavy
def test_an_export_that_is_ended_leaves_no_files(trained: Path, tmp_path: Path) -> None:
    def export() -> None:
        parity.answers = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
        tempfile.tempdir = str(tmp_path / "temporary")
        main(["export", f"--run={run}"], owns_process=True)

    run = trained.absolute()
    (tmp_path / "temporary").mkdir()
    process = Process(export, tmp_path / "process")
    assert process.wait() == 143
    assert [*(tmp_path / "temporary").iterdir()] == [*(tmp_path / "process").glob("models/**/.new*")] == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--prune=1"], "--prune must be in [0, 1), got 1"),
        (["--prune=nan"], "--prune must be in [0, 1), got nan"),
        (["--prune_epochs=-1"], "--prune_epochs must be at least 0"),
        (["--tolerance=0"], "--tolerance must be above 0"),
        (["--quantize=int8", "--format=pt2"], "--quantize needs --format onnx"),
        (["--quantize=int4"], "--quantize: invalid choice: 'int4'"),
        (["--gate=test/acc>=0.9"], "test/acc is no metric of this export; choose from test/accuracy, "),
        (
            ["--quantize=int8", "--gate=test/loss<1"],
            "test/loss is no metric of this export; choose from test/accuracy\n",
        ),
        (
            ["--model.net.dropout=0", "--gate=test/loss<1"],
            "test/loss is no metric of this export; choose from test/accuracy\n",
        ),
        (["--gate=test/loss<1", "--gate_lower"], "--gate_lower: test/loss has no interval, only test/accuracy has one"),
        (["--output=configs/digits.yaml"], "configs/digits.yaml"),
        (["--output=configs/digits.yaml/models"], "cannot write configs/digits.yaml/models: Not a directory"),
    ],
)
def test_options_are_checked_before_anything_is_computed(
    options: list[str], text: str, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "predict", None)
    assert text in refused(capsys, "export", f"--run={trained}", *options)


def test_a_gate_on_a_metric_that_the_answers_lack_is_refused_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--no_page"]
    main(["fit", "--config=configs/digits_autoencoder.yaml", *size])
    monkeypatch.setattr(variants, "trace", None)
    run = "--run=runs/digits_autoencoder/version_0"
    error = refused(capsys, "export", run, "--gate=test/accuracy>=0.5")
    assert re.search("test/accuracy is no metric of this export; choose from val/loss, test/loss", error)
    error = refused(capsys, "export", run, "--gate=test/loss<9", "--gate_lower")
    assert "test/loss has no interval, no metric of this export has one" in error


def test_missing_packages_are_named(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "find_spec", lambda _: None)
    text = "onnx, onnxscript, onnxruntime, torch-pruning is not installed: run make extras"
    assert text in refused(capsys, "export", f"--run={trained}", "--prune=0.5")


def test_a_table_is_refused() -> None:
    x: Any = SimpleNamespace(data=Diabetes(), stored={"Diabetes": {}})
    need = "export needs a run on pictures, whose data module derives from src.data.DataModule, got Diabetes"
    with pytest.raises(UserError, match=f"^{need}$"):
        check_data(x)


@pytest.mark.heavy
def test_several_runs_are_one_file(three: list[str]) -> None:
    main(["export", *(f"--run={run}" for run in three), "--model.tta=mirror"])
    pixels, soft = Digits().load(train=False)[0], []
    for run in three:
        task, data = load_run(run)
        inputs = (pixels - data.normalize.mean) / data.normalize.std
        with torch.no_grad():
            soft.append(((task.net(inputs) + task.net(inputs.flip(3))) / 2).softmax(1))
    np.testing.assert_allclose(onnx_outputs(1, pixels)[0], torch.stack(soft).mean(0), atol=1e-6)
    info = Models(MODELS).load(1).info
    assert (info["run"], info["tta"]) == ("digits/version_0, digits/version_1, digits/version_2", "mirror")


@pytest.mark.heavy
def test_a_smaller_model_is_pruned_trained_on_and_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "LOSS", 1.0)
    main(["fit", "--config=configs/digits.yaml", *CNN, "--no_page", "--trainer.precision=bf16-mixed"])
    before = {file: file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()}
    pixels = Digits().load(train=False)[0]
    main(["export", "--run=runs/digits/version_0", "--prune=0.5", "--quantize=int8"])
    info = Models(MODELS).load(1).info
    assert (info["pruned"], info["quantized"], info["precision_trained"]) == (0.5, "int8", "bf16-mixed")
    assert info["parity"]["max_difference"] > 1e-5
    graph = onnx.load(MODELS / "1/model.onnx").graph
    shapes = [tuple(each.dims) for each in graph.initializer if len(each.dims) == 4]
    types = {each.data_type for each in graph.initializer if len(each.dims) == 4}
    assert types == {onnx.TensorProto.INT8}
    assert (8, 1, 3, 3) in shapes  # of 16 channels
    kinds = [node.op_type for node in graph.node if not node.op_type.endswith("Linear")]
    assert kinds[:3] == ["Cast", "Sub", "Div"]
    assert kinds[-1] == "Softmax"
    assert onnx_outputs(1, pixels)[0].shape == (360, 10)
    assert before == {file: file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()}
    card = (MODELS / "1/card.md").read_text(encoding="utf-8")
    assert "trained and tested in bf16-mixed, but compared here with predict in float32" in card
    assert re.search(r"\| torch \|.*\n\| float32 \|.*\n\| pruned \|.*\n\| pruned int8 \|", card)


TASKS = {
    "digits_masks": ("masks", "mask", "test/iou"),
    "digits_multilabel": ("labels", "probability", "test/f1"),
    "digits_retrieval": ("embeddings", "embedding", "test/recall_at_1"),
    "digits_autoencoder": ("images", "image", "test/loss"),
    "digits_rotation": ("numbers", "numbers", "test/mae"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("config", TASKS)
def test_every_task_is_exported(config: str) -> None:
    main(["fit", f"--config=configs/{config}.yaml", "--trainer.max_epochs=1", "--no_page"])
    main(["export", f"--run=runs/{config}/version_0"])
    info = Models(Path("models", config)).load(1).info
    assert (info["kind"], info["outputs"][0]["name"], next(iter(info["metrics"]))) == TASKS[config]
    results = json.loads(Path(f"runs/{config}/version_0/results.json").read_text(encoding="utf-8"))
    assert info["metrics"][TASKS[config][2]]["value"] == pytest.approx(results[TASKS[config][2]], rel=1e-4)


@pytest.mark.heavy
def test_a_module_of_somebody_else_is_exported() -> None:
    Path("plain.yaml").write_text(
        "data: {class_path: src.data.Digits}\nmodel: {class_path: tests.conftest.PlainModule}\nname: digits\n"
        "best: {monitor: val/accuracy, mode: max}\n",
        encoding="utf-8",
    )
    main(["fit", "--config=plain.yaml", "--trainer.max_epochs=1", "--trust", "--no_page"])
    main(["export", "--run=runs/digits/version_0", "--trust", "--gate=test/accuracy>=0.1", "--gate_lower"])
    info = Models(MODELS).load(1).info
    assert (info["task"], info["kind"]) == ("PlainModule", "values")
    assert info["outputs"] == [{"name": "value", "dtype": "float32", "shape": [10]}]
    pixels, targets = Digits().load(train=False)
    task, data = load_run("runs/digits/version_0", trust=True)
    with torch.no_grad():
        logits = task((pixels - data.normalize.mean) / data.normalize.std)
    np.testing.assert_allclose(onnx_outputs(1, pixels)[0], logits, atol=1e-5)
    accuracy = (logits.argmax(1) == targets).double().mean().item()
    assert info["metrics"]["test/accuracy"]["value"] == pytest.approx(accuracy)
