"""config.yaml gives back every setting: what a run wrote is parsed and built again, with the same result."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch import callbacks

from src import UserError
from src.config.arguments import read
from src.config.parser import instantiate, make_parser, parse, plain_config, to_yaml
from tests.conftest import ROOT, SMALL, refused

DIGITS = "--config=configs/digits.yaml"
CONFIGS = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "configs").glob("*.yaml"))
PRESETS = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "configs/presets").glob("*.yaml"))
NEEDED = {  # arguments without a default
    "EarlyStopping": ["monitor=val/loss"],
    "GradientAccumulationScheduler": ["scheduling={1: 2}"],
    "ModelPruning": ["pruning_fn=l1_unstructured"],
    "OnExceptionCheckpoint": ["dirpath=saved"],
    "StochasticWeightAveraging": ["swa_lrs=0.1"],
    "ThroughputMonitor": ["batch_size_fn=torch.numel"],
    "Timer": ["duration=00:01:00:00"],
}
NULLS = {  # typed null wins over a default that is not None
    "weights": (["--model.weights=null"], 0),
    "choice": (["--model.choice=null"], 1),
    "table": (["--model.table=null"], 15),
    "layer": (["--model.layer=tests.odd_defaults.Layer", "--model.layer.weights=null"], -1),
    "layers": (["--model.layers=[{class_path: tests.odd_defaults.Layer, init_args: {weights: null}}]"], -1),
}


def round_trip(*args: str) -> tuple[Namespace, Namespace]:
    """Return the settings as typed, and as read back from the file that a run would write."""
    config = parse(read(["fit", "--trust", *args])[0])
    Path("again.yaml").write_text(to_yaml(plain_config(config)), encoding="utf-8")
    again = parse(read(["fit", "--trust", "--config=again.yaml"])[0])
    assert plain_config(again) == plain_config(config)
    return config, again


def plain(value: Any) -> Any:
    """Return what an object is made of, so that two objects can be compared."""
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value if type(value).__module__ == "builtins" and not callable(value) else repr(value).partition(" at 0x")[0]


@pytest.mark.parametrize("file", [*CONFIGS, *(pytest.param(file, marks=pytest.mark.heavy) for file in PRESETS)])
def test_every_config_and_preset_is_read_back_as_it_was(file: str) -> None:
    for package in ("mlflow", "wandb", "kornia", "timm"):
        if package in (ROOT / file).read_text(encoding="utf-8"):
            pytest.importorskip(package)
    needed = ["--model.num_classes=3"] if file.endswith("folder.yaml") else []
    config, again = round_trip(*([DIGITS] if file in PRESETS else []), f"--config={file}", *needed)
    for section in ("trainer", "best", "last", "non_finite", "model", "data", "seed_everything", "compile"):
        assert again[section] == config[section], section


@pytest.mark.heavy
@pytest.mark.parametrize("name", callbacks.__all__)
def test_every_callback_of_lightning_is_read_back_as_it_was(name: str) -> None:
    needed = [f"--trainer.callbacks.{setting}" for setting in NEEDED.get(name, [])]
    config, again = round_trip(DIGITS, f"--trainer.callbacks=lightning.pytorch.callbacks.{name}", *needed)
    assert str(again.trainer.callbacks) == str(config.trainer.callbacks)
    if not inspect.isabstract(getattr(callbacks, name)) and name != "WeightAveraging":
        built = [make_parser().instantiate(each).trainer.callbacks for each in (config, again)]
        first, second = (each[0] if isinstance(each, list) else each for each in built)
        assert type(first) is type(second) is getattr(callbacks, name)
        assert plain(vars(first)) == plain(vars(second))


@pytest.mark.parametrize("name", ["Kept", "LeftOut"])
def test_defaults_of_every_kind_are_read_back_as_they_were(name: str) -> None:
    tasks = [instantiate(each)[0] for each in round_trip(f"--model=tests.odd_defaults.{name}")]
    assert tasks[0].values == tasks[1].values
    assert "Unable" not in Path("again.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("typed", "position"), NULLS.values(), ids=NULLS)
def test_a_typed_null_is_not_replaced_by_a_default(typed: list[str], position: int) -> None:
    tasks = [instantiate(each)[0] for each in round_trip("--model=tests.odd_defaults.Kept", *typed)]
    assert [task.values[position] for task in tasks] == [None, None]


def test_a_class_that_replaces_one_with_more_arguments_is_read_back() -> None:
    config = parse(read(["fit", DIGITS, "--data=tests.engine.test_resume_split.DrawnSplit"])[0])
    assert plain_config(config)["data"]["class_path"] == "tests.engine.test_resume_split.DrawnSplit"


def test_what_config_yaml_cannot_hold_is_refused_before_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse(read(["fit", *SMALL])[0])
    config.model.init_args.warmup_steps = complex(1, 2)
    with pytest.raises(UserError, match=r"config\.yaml cannot hold"):
        plain_config(config)
    monkeypatch.setattr(
        "src.config.parser.to_yaml", lambda settings: to_yaml(settings).replace("epochs: 3", "epochs: 4")
    )
    message = "config.yaml cannot hold trainer.max_epochs: 3 would be read back as 4"
    assert message in refused(capsys, "fit", *SMALL)
    assert not Path("runs").exists()


def test_a_module_without_settings_of_its_own_is_written() -> None:
    config = parse(read(["fit", "--trust", DIGITS, "--model=tests.own_code.AnyArguments"])[0])
    assert plain_config(config)["model"]["class_path"] == "tests.own_code.AnyArguments"
