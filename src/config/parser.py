"""Parse configs and typed settings, and check their values."""

import argparse
import inspect
import re
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import torch
import yaml
from jsonargparse import ActionConfigFile, DefaultHelpFormatter, Namespace, set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from src import UserError, require
from src.config.arguments import Options, run_name
from src.config.errors import constructor_error, explain
from src.config.files import SETTINGS
from src.config.trust import Trust
from src.engine.checkpoints import BestCheckpoint, LastCheckpoint
from src.engine.patches import imports_checked, required_optional
from src.engine.skip_non_finite import SkipNonFinite
from src.protocols import ImageData

# Lightning lets every setting be an address, from which a config would be fetched that nobody has checked
set_parsing_settings(config_read_mode_fsspec_enabled=False, config_read_mode_urls_enabled=False)


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keep the line breaks of a command's docstring."""


def make_parser(name: str = "run") -> LightningArgumentParser:
    """Return the parser of all settings, with the default run name."""
    usage = "%(prog)s [--config FILE] [--run DIR] [--key=value ...]"
    parser = LightningArgumentParser(
        usage=usage, formatter_class=HelpFormatter, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="a YAML file; repeat it to layer files")
    text = "seed of all random numbers; true for a random seed"
    parser.add_argument("--seed_everything", type=bool | int, default=0, help=text)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({"trainer.enable_model_summary": False})
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="the checkpoint to start from or to use")
    parser.add_argument("--name", type=str, default=name, help="the run folder is runs/NAME/version_N")
    parser.add_argument("--test", type=bool, default=True, help="whether fit ends by testing the best checkpoint")
    text = "whether fit compiles the model; or arguments of torch.compile, such as {mode: reduce-overhead}"
    parser.add_argument("--compile", type=bool | dict[str, Any], default=False, help=text)
    text = "whether tensors are laid out as (N, H, W, C), which makes convolutions faster on most machines"
    parser.add_argument("--channels_last", type=bool, default=False, help=text)
    parser.add_lightning_class_args(BestCheckpoint, "best")
    parser.add_lightning_class_args(LastCheckpoint, "last")
    parser.add_lightning_class_args(SkipNonFinite, "non_finite")
    return parser


def parse(options: Options) -> Namespace:
    """Return all settings: what is typed wins over the configs, a later config over an earlier one."""
    parser = make_parser(run_name(options))
    parser.prog, parser.description = f"python -m src.cli {options.command}", options.description
    trust = Trust(options)
    asks = {"-h", "--help"} & {*options.settings}
    typed = ["--help" if each == "--help-all" else each for each in options.settings if each not in asks]
    try:
        with imports_checked(trust.check_import), required_optional() if asks else nullcontext():
            config = parser.parse_args([*(f"--config={file}" for file in options.config), *typed])
    except argparse.ArgumentError as error:
        refused = next((text for path, text in trust.refused.items() if path in error.message), None)
        raise UserError(refused or explain(error.message, partial(settings_without, options, trust))) from None
    trust.check_values(config)
    if asks:
        import_module("src.config.help").print_help(options, config)
    check_values(config)
    seed = config.seed_everything
    valid = seed is not False and 0 <= seed < 2**32
    require(valid, f"seed_everything must be an integer in [0, {2**32}), or true for a random seed; got {seed}")
    return config


def settings_without(options: Options, trust: Trust, name: str) -> list[str]:
    """Return the names of all settings of a command, given one that does not exist and is to be left out."""
    leaf, parser, config = name.rpartition(".")[2], make_parser(), Namespace()
    typed = [each for each in options.settings if re.split(r"[-.]", each.partition("=")[0])[-1] != leaf]
    try:
        with imports_checked(trust.check_import), required_optional():
            for file in options.config:
                layer = without_key(yaml.safe_load(Path(file).read_text(encoding="utf-8")), leaf)
                config = parser.parse_object(layer, namespace=config, defaults=False)
            return list(parser.parse_args(typed, namespace=config).keys())
    except (argparse.ArgumentError, UserError):
        return []


def without_key(tree: Any, key: str) -> Any:
    """Return nested settings without a key."""
    if isinstance(tree, list):
        return [without_key(value, key) for value in tree]
    return {k: without_key(v, key) for k, v in tree.items() if k != key} if isinstance(tree, dict) else tree


def import_path(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def instantiate(
    config: Namespace, stored: bool = False
) -> tuple[LightningModule, LightningDataModule | None, Namespace]:
    """Return the task and the data module of a config, and all objects that it describes.

    If weights are ``stored`` in a checkpoint, they are not initialized, which may need files that are gone.
    """
    if stored and config.model.get("init_args.init") is not None:
        config = config.clone()
        config.model.init_args.init = None
    try:
        objects = make_parser().instantiate(config)
    except Exception as error:
        raise constructor_error(error) from error
    task, data = objects.model, objects.get("data")
    if config.channels_last:
        task.to(memory_format=torch.channels_last)
    if isinstance(data, ImageData):
        data.seed = config.seed_everything
    return task, data, objects


def plain_config(config: Namespace) -> dict[str, Any]:
    """Return the settings as config.yaml holds them, nulls included."""
    settings = yaml.safe_load(make_parser().dump(config, format="yaml", skip_unset=False))
    return {key: settings[key] for key in SETTINGS}


def check_values(settings: Any, key: str = "") -> None:
    """Refuse NaN, infinity, and null for an argument that cannot be None; jsonargparse accepts all three."""
    if isinstance(settings, float) and not isfinite(settings):
        raise UserError(f"{key} must be a finite number, got {settings}")
    if isinstance(settings, list):
        for i, each in enumerate(settings):
            check_values(each, f"{key}.{i}")
    if not isinstance(settings, Mapping | Namespace):
        return
    if isinstance(settings.get("class_path"), str):
        hints = required_types(settings["class_path"])
        for name, value in vars(settings.get("init_args") or Namespace()).items():
            if value is None and name in hints:
                raise UserError(f"{key}.{name} must be {hints[name]}, got null")
    for name, value in (settings if isinstance(settings, Mapping) else vars(settings)).items():
        check_values(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))


def required_types(class_path: str) -> dict[str, str]:
    """Return the type of each argument of a class that must not be None."""
    found = import_path(class_path)
    constructors = [vars(parent)["__init__"] for parent in getattr(found, "__mro__", ()) if "__init__" in vars(parent)]
    hints: dict[str, str] = {}
    for constructor in constructors or [found]:  # no __mro__: a function that returns the object
        for parameter in inspect.signature(constructor).parameters.values():
            kind = parameter.annotation
            optional = parameter.default is None or kind is Any or NoneType in get_args(kind)
            if kind is not parameter.empty and not isinstance(kind, str) and not optional:
                hints.setdefault(parameter.name, re.sub(r"(\w+\.)+", "", inspect.formatannotation(kind)))
    return hints


def check_training(trainer: Namespace, name: str) -> None:
    """Refuse Trainer settings that train nothing or divide by zero, and a run name outside runs/."""
    for key in ("accumulate_grad_batches", "val_check_interval", "limit_train_batches", "check_val_every_n_epoch"):
        valid = not isinstance(trainer[key], int | float) or trainer[key] > 0
        require(valid, f"trainer.{key} must be more than 0, got {trainer[key]}")
    for key in ("max_epochs", "max_steps"):
        require(trainer[key] != 0, f"trainer.{key} must be more than 0, or -1 for no limit, got 0")
    for key in ("gradient_clip_val", "log_every_n_steps"):
        require((trainer[key] or 0) >= 0, f"trainer.{key} must be at least 0, got {trainer[key]}")
    if 0 <= (trainer.max_epochs or -1) < (trainer.min_epochs or 0):
        raise UserError(f"trainer.min_epochs must be at most max_epochs {trainer.max_epochs}, got {trainer.min_epochs}")
    root = str(trainer.default_root_dir or "")
    require("://" not in root, f"trainer.default_root_dir must be a folder of this machine, got {root}")
    path = Path(name)
    inside = path.name and not path.is_absolute() and ".." not in path.parts
    require(inside, f"name must be a folder below runs/, got {name!r}")
