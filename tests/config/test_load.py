"""load_run: a trained module and its data, in a notebook or another program."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from src import UserError, load_run
from src.cli import main
from tests.conftest import SMALL, PlainModule, process_state, same, weights

RUN = Path("runs/digits/version_0")
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
WEIGHTED = ["--model.loss=torch.nn.CrossEntropyLoss", "--model.class_weights=balanced"]
IMAGE_NET = ["--model.net=src.nets.SmallCNN", "--model.net.width=4"]


def results(run: Path = RUN) -> dict[str, float]:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def measure(task: Any, data: Any) -> dict[str, float]:
    """Return the test metrics of plain Lightning."""
    return Trainer(**QUIET).test(task, data, verbose=False)[0]  # type: ignore[arg-type]


def state() -> dict[str, Any]:
    """Return the state of the process and of all random numbers."""
    numbers = [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]
    return process_state() | {"environment": dict(os.environ), "random": numbers}


@pytest.mark.filterwarnings("ignore:.*Trainer already configured")
@pytest.mark.parametrize(
    "settings",
    [[], ["--config=configs/presets/ema.yaml"], WEIGHTED, [*IMAGE_NET, "--config=configs/presets/channels_last.yaml"]],
    ids=["plain", "ema", "balanced", "channels_last"],
)
def test_a_loaded_run_has_the_test_metrics_of_its_results(settings: list[str]) -> None:
    main(["fit", *SMALL, *settings, "--trainer.max_epochs=1"])
    before = state()
    task, data = load_run(RUN)
    assert state() == before
    assert not task.training
    assert {p.device.type for p in task.parameters()} == {"cpu"}
    assert same(task.state_dict(), weights(RUN, "best"))
    assert (data.class_names, data.shape) == ([str(i) for i in range(10)], (1, 8, 8))
    assert not data.splits  # no data is loaded
    assert data.split_hash == json.loads((RUN / "provenance.json").read_text(encoding="utf-8"))[0]["split"]
    metrics = measure(task, data)
    assert metrics == pytest.approx({name: results()[name] for name in metrics}, rel=1e-6, abs=1e-8)
    assert "test/loss" in metrics


def test_the_last_checkpoint_can_be_loaded(trained: Path) -> None:
    stored = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    stored["state_dict"]["net.1.bias"] += 1
    torch.save(stored, trained / "checkpoints/last.ckpt")
    best, last = (load_run(str(trained), kind)[0].net[1].bias for kind in ("best", "last"))
    assert same(best.detach() + 1, last.detach())


def test_a_foreign_module_needs_trust_and_gives_the_same_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.config.trust.TRUSTED", ("src", "torch"))
    path = f"{PlainModule.__module__}.{PlainModule.__name__}"
    main(["fit", "--data=src.data.Digits", f"--model={path}", "--name=plain", "--trainer.max_epochs=2"])
    run = Path("runs/plain/version_0")
    with pytest.raises(UserError, match="is code outside src, torch"):
        load_run(run)
    task, data = load_run(run, trust=True)
    assert isinstance(task, PlainModule)
    assert not task.training
    assert measure(task, data)["test/accuracy"] == pytest.approx(results(run)["test/accuracy"])


def test_root_is_where_the_data_is_from_another_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    for name in (f"{split}/{letter}" for split in ("train", "test") for letter in "ab"):
        Path("images", name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(generator.integers(0, 255, (8, 8, 3), np.uint8)).save(Path("images", name, f"{i}.png"))
    settings = ["--data=src.data.ImageFolder", "--data.root=images", "--data.size=8", "--data.batch_size=8"]
    settings += ["--data.folds=4", "--model.num_classes=2", "--model.net.image_shape=[3,8,8]"]
    main(["fit", *SMALL, *settings, "--trainer.max_epochs=1"])
    loss, folder = results()["test/loss"], Path.cwd()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    task, data = load_run(folder / RUN, root="../images")
    assert measure(task, data)["test/loss"] == pytest.approx(loss)


def test_class_weights_added_to_the_config_load_from_an_older_checkpoint(trained: Path) -> None:
    text = (trained / "config.yaml").read_text(encoding="utf-8")
    assert "class_weights: null" in text
    (trained / "config.yaml").write_text(
        text.replace("class_weights: null", f"class_weights: {[2.0] * 10}"), encoding="utf-8"
    )
    assert load_run(trained)[0].loss.weight.tolist() == [2.0] * 10


def test_a_loaded_task_predicts_in_one_call(trained: Path) -> None:
    task, data = load_run(trained)
    data.setup("test")
    images, targets = next(iter(data.test_dataloader()))[:2]
    with torch.no_grad():
        assert (task(images).argmax(1) == targets).float().mean() > 0.1
        assert task(images).equal(task(images))  # no dropout


@pytest.mark.parametrize("damage", ["config", "checkpoint", "net", "folder"])
def test_a_folder_that_does_not_load_is_refused(trained: Path, damage: str) -> None:
    path, message = trained, "does not match this net"
    if damage == "config":
        (trained / "config.yaml").write_text(
            "model: {class_path: src.tasks.Classifier, init_args: {widht: 3}}", encoding="utf-8"
        )
        message = "unknown setting model.widht"
    elif damage == "checkpoint":
        for file in trained.glob("checkpoints/*.ckpt"):
            file.unlink()
        message = "has no checkpoint"
    elif damage == "net":
        text = (trained / "config.yaml").read_text(encoding="utf-8")
        (trained / "config.yaml").write_text(text.replace("- 16\n", "- 8\n"), encoding="utf-8")
    else:
        path, message = trained.parent, "is not a run folder"
    with pytest.raises(UserError, match=message):
        load_run(path)
