"""An editor can check, complete and explain configs with configs/schema.json."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import get_loader
from jsonschema import Draft202012Validator

pytestmark = pytest.mark.heavy
CONFIGS = Path(__file__).parents[2] / "configs"
load = get_loader("yaml")


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("schema") / "schema.json"
    code = f"import pathlib, scripts.schema; scripts.schema.main(pathlib.Path({str(file)!r}))"
    command = [sys.executable, "-W", "ignore", "-c", code]  # a new process, which knows no class of another test
    subprocess.run(command, cwd=CONFIGS.parent, check=True)
    return json.loads(file.read_text(encoding="utf-8"))


def is_valid(schema: dict[str, Any], text: str) -> bool:
    return Draft202012Validator(schema).is_valid(load(text))


def test_the_schema_is_valid_and_small(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert len(json.dumps(schema)) < 1_000_000


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("**/*.yaml")), ids=lambda file: file.stem)
def test_each_config_of_ours_is_valid(schema: dict[str, Any], file: Path) -> None:
    assert is_valid(schema, file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "data: {init_args: {batch_size: 3}}",
        "data: {init_args: {augment+: [{class_path: torchvision.transforms.v2.RandAugment, init_args: {num_ops: 1}}]}}",
        "model: {init_args: {loss: {class_path: torch.nn.CrossEntropyLoss, init_args: {label_smoothing: 0.1}}}}",
        "model: {init_args: {net: torchvision.models.resnet18}}",
        "model: {init_args: {init: {class_path: src.nets.Init}, penalties: [{class_path: src.losses.L1}]}}",
        "model: {init_args: {net: {class_path: torchvision.models.resnet18, init_args: {weights: null}}}}",
        "model: {init_args: {schedule: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 3}}}}",
        "trainer: {callbacks+: [{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: x}}]}",
        "{seed_everything: true, name: x, test: false, compile: true, ckpt_path: null, best: {mode: min}, last: {}}",
    ],
)
def test_a_correct_config_is_valid(schema: dict[str, Any], text: str) -> None:
    assert is_valid(schema, text)


@pytest.mark.parametrize(
    "text",
    [
        "seed: 3",
        "best: {monitr: x}",
        "data: {class_path: src.data.Digits, init_args: {batchsize: 3}}",
        "data: {init_args: {batch_size: many}}",
        "data: {init_args: {augment: [{class_path: src.data.RandomCrop, init_args: {pad: 2}}]}}",
        "model: {class_path: src.tasks.Clasifier}",
        "model: {init_args: {num_class: 3}}",
        "model: {init_args: {net: {class_path: src.nets.SmalCNN}}}",
        "model: {init_args: {net: {class_path: src.nets.SmallCNN, init_args: {widht: 3}}}}",
        "model: {init_args: {optimizer: {class_path: torch.optim.AdamW, init_args: {lrr: 0.1}}}}",
        "model: {init_args: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: fast}}}}",
        "model: {init_args: {schedule: {class_path: src.optim.Cosine, init_args: {finall: 0}}}}",
        "trainer: {max_epoch: 3}",
        "trainer: {max_epochs: three}",
        "trainer: {max_epochs+: [3]}",
        "trainer: {callbacks+: [{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitr: x}}]}",
        "search: {trails: 3}",
    ],
)
def test_a_config_with_an_error_is_invalid(schema: dict[str, Any], text: str) -> None:
    assert not is_valid(schema, text)


def test_the_docstrings_explain_classes_and_settings(schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    assert "number of stratified folds of the training set" in text  # of an argument
    assert "1,797 digits of 8x8" in text  # of a class
    assert "Stop training once this number of epochs is reached" in text  # of Lightning's Trainer
