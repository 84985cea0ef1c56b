"""The settings: which of them wins, and that config.yaml holds all of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

from src import UserError
from src.cli import main
from src.config.arguments import read
from src.config.checks import SETTINGS, check_values
from src.config.parser import parse, plain_config
from tests.conftest import FIT, PATH, ROOT

DIGITS = ["fit", "--config=configs/digits.yaml"]
PRESETS = sorted((ROOT / "configs/presets").glob("*.yaml"))


def parsed(*args: str) -> Namespace:
    return parse(read(list(args))[0])


def parse_again(config: Namespace) -> Namespace:
    """Write settings like a run's config.yaml, and parse only that file."""
    Path("again.yaml").write_text(yaml.safe_dump(plain_config(config), sort_keys=False), encoding="utf-8")
    return parsed("fit", "--config=again.yaml")


def test_what_is_typed_wins_over_the_configs_and_the_last_config_wins() -> None:
    Path("layer.yaml").write_text(
        "trainer: {max_epochs: 7, min_epochs: 2}\nmodel: {init_args: {warmup_steps: 3}}\n", encoding="utf-8"
    )
    config = parsed(*DIGITS, "--config=layer.yaml", "--trainer.min_epochs=5", "--model.net.width=4")
    assert (config.trainer.max_epochs, config.trainer.min_epochs) == (7, 5)
    assert (config.model.init_args.warmup_steps, config.model.init_args.num_classes) == (3, 10)
    assert config.model.init_args.net.init_args.width == 4
    assert config.data.init_args.batch_size == 64  # of the first config
    Path("layer.yaml").write_text("trainer: {max_epochs: 7, min_epochs: 2}", encoding="utf-8")
    trainer = parsed("fit", "--config=layer.yaml", *DIGITS[1:]).trainer
    assert (trainer.max_epochs, trainer.min_epochs) == (20, 2)


def test_a_run_is_named_like_its_first_config_unless_told_otherwise() -> None:
    Path("layer.yaml").write_text("trainer: {max_epochs: 7}", encoding="utf-8")
    Path("named.yaml").write_text("name: mine", encoding="utf-8")
    assert parsed(*DIGITS, "--config=layer.yaml").name == "digits"
    assert parsed(*DIGITS, "--config=named.yaml").name == "mine"
    assert parsed(*DIGITS, "--config=named.yaml", "--name=typed").name == "typed"


@pytest.mark.heavy
@pytest.mark.parametrize("preset", [None, *PRESETS], ids=lambda path: path.stem if path else "digits")
def test_written_settings_parse_back_to_the_same_settings(preset: Path | None) -> None:
    if preset is not None and preset.stem in ("mlflow", "wandb", "efficientnet"):
        pytest.importorskip(preset.stem.replace("efficientnet", "timm"))
    layers = [] if preset is None else [f"--config={preset}"]
    typed = ["--model.schedule=null", "--trainer.max_epochs=null", "--trainer.log_every_n_steps=null"]
    config = parsed(*DIGITS, *layers, *typed)
    again = parse_again(config)
    written = plain_config(config)
    assert plain_config(again) == written
    assert plain_config(parse_again(again)) == written
    assert list(written) == list(SETTINGS)
    assert written["model"]["init_args"]["schedule"] is None
    assert written["trainer"]["max_epochs"] is None
    for section in ("trainer", "best", "last", "non_finite", "model", "data"):
        assert again[section] == config[section], section


def test_nulls_survive_in_the_config_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    x = main([*FIT, "--model.schedule=null", "--trainer.max_epochs=1"])
    file = x.run.config
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert written["model"]["init_args"]["schedule"] is None
    assert plain_config(parsed("fit", f"--config={file}")) == written == plain_config(x.config)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", f"--config={file}", "--print_config"])
    Path("printed.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert plain_config(parsed("fit", "--config=printed.yaml")) == written


@pytest.mark.heavy
def test_a_limit_of_1_is_one_batch_although_typing_names_float_first() -> None:
    code = """
import sys
from lightning import Trainer
Trainer.__init__.__annotations__["limit_train_batches"] = float | int | None
from src.config.arguments import read
from src.config.parser import parse
for value in ("1", "0.5"):
    print(parse(read([*sys.argv[1:], f"--trainer.limit_train_batches={value}"])[0]).trainer.limit_train_batches)
"""
    done = subprocess.run([sys.executable, "-c", code, *FIT], env=os.environ | PATH, capture_output=True, text=True)
    assert done.stdout == "1\n0.5\n", done.stderr


def test_false_is_no_seed() -> None:
    with pytest.raises(
        UserError, match=r"seed_everything must be an integer in .*, or true for a random seed; got False"
    ):
        parsed(*DIGITS, "--seed_everything=false")
    assert parsed(*DIGITS, "--seed_everything=true").seed_everything is True
    assert parsed(*DIGITS, "--seed_everything=1").seed_everything == 1
    assert parsed(*DIGITS, "--seed_everything=1").seed_everything is not True


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_a_number_must_be_finite_at_any_depth(value: float) -> None:
    arguments = Namespace(hidden_sizes=[{"a": 1.0}, {"a": value}])
    with pytest.raises(UserError, match=r"model\.hidden_sizes\.1\.a must be a finite number, got"):
        check_values(Namespace(model=Namespace(class_path="src.nets.MLP", init_args=arguments)))
