"""Parse configs and typed settings, and check their values."""

import argparse
import re
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from enum import Enum
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ActionConfigFile, DefaultHelpFormatter, Namespace, set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from src import UserError, require
from src.config.arguments import Options, run_name
from src.config.checks import OWN_KEY, SETTINGS, changes, check_values
from src.config.errors import constructor_error
from src.config.hints import explain
from src.config.trust import Trust
from src.engine.checkpoints import BestCheckpoint, LastCheckpoint
from src.engine.patches import imports_checked, required_optional
from src.engine.skip_non_finite import SkipNonFinite
from src.protocols import ImageData

# Lightning lets every setting be an address, from which a config would be fetched that nobody has checked
set_parsing_settings(config_read_mode_fsspec_enabled=False, config_read_mode_urls_enabled=False)
# jsonargparse cannot write an Enum that is the default of an argument of another type
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, each: dumper.represent_str(str(each.value)))
yaml.SafeDumper.add_multi_representer(np.generic, lambda dumper, each: dumper.represent_data(each.item()))
UNWRITABLE = "Unable to serialize instance"  # what jsonargparse writes instead of a value


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keep the line breaks of a command's docstring."""


class Parser(LightningArgumentParser):
    """A parser that keeps a null typed for an argument of a nested class, which jsonargparse turns into "None"."""

    def parse_args(self, args: Any = None, *others: Any, **settings: Any) -> Any:
        args = [re.sub(r"(?<==)None$|(?<=[\[ ])None(?=[,\]}])", "null", each) for each in args]
        return super().parse_args(args, *others, **settings)


def make_parser(name: str = "run") -> LightningArgumentParser:
    """Return the parser of all settings, with the default run name."""
    usage = "%(prog)s [--config FILE] [--run DIR] [--key=value ...]"
    parser = Parser(usage=usage, formatter_class=HelpFormatter, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="a YAML file; repeat it to layer files")
    parser.add_argument("--seed_everything", type=bool | int, default=0, help="random seed; true: a random one")
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
    own = [key for key in OWN_KEY if key == options.command]
    for key in own:
        parser.add_argument(f"--{key}", type=dict, default={})  # the command reads and checks it
    trust = Trust(options)
    asks = {"-h", "--help"} & {*options.settings}
    typed = ["--help" if each == "--help-all" else each for each in options.settings if each not in asks]
    typed = [each for each in typed if not each.startswith(tuple(f"--{key}." for key in own))]
    try:
        with imports_checked(trust.check_import), required_optional() if asks else nullcontext():
            config = parser.parse_args([*(f"--config={file}" for file in options.config), *typed])
    except argparse.ArgumentError as error:
        refused = next((text for path, text in trust.refused.items() if path in error.message), None)
        known = import_module("src.config.help").settings_without
        raise UserError(refused or explain(error.message, partial(known, options, trust))) from None
    for key in own:
        config.pop(key)
    trust.check_values(config)
    if asks:
        import_module("src.config.help").print_help(options, config)
    check_values(config)
    seed = config.seed_everything
    valid = isinstance(seed, int) and seed is not False and 0 <= seed < 2**32
    require(valid, f"seed_everything must be an integer in [0, {2**32}), or true for a random seed; got {seed}")
    return config


def import_path(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def instantiate(
    config: Namespace, stored: bool = False, data: LightningDataModule | None = None
) -> tuple[LightningModule, LightningDataModule | None, Namespace]:
    """Return the task and the data module of a config, and all objects that it describes.

    If weights are ``stored`` in a checkpoint, they are not initialized, which may need files that are gone. A data
    module that is built already is used as it is.
    """
    if data is not None:
        config = config.clone()
        config.data = data
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
        data.seed, data.tests = config.seed_everything, config.test
    return task, data, objects


class Dumper(yaml.SafeDumper):
    """Quote also the strings that jsonargparse reads as numbers, such as 1e3."""


NUMBER = re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+")
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, [*"-+0123456789"])


def to_yaml(settings: dict[str, Any]) -> str:
    return yaml.dump(settings, Dumper=Dumper, sort_keys=False)


def plain_config(config: Namespace) -> dict[str, Any]:
    """Return the settings as config.yaml holds them, nulls included; refuse those that would be read back as others.

    A default that YAML cannot hold, such as a torch.device, is left out.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", rf"\s*{UNWRITABLE}")  # it is left out below
            text = make_parser().dump(config, format="yaml", skip_unset=False)
        dumped = yaml.safe_load(text)
        settings = without_unwritable(config, {key: dumped[key] for key in SETTINGS})
        changed = [*changes(config, make_parser().parse_string(to_yaml(settings)))]
        for keys, *_ in changed:
            leave_out(settings, keys)
        changed = [*changes(config, make_parser().parse_string(to_yaml(settings)))] if changed else []
    except (argparse.ArgumentError, ValueError, TypeError, yaml.YAMLError) as error:
        reason = explain(getattr(error, "message", str(error)))
        raise UserError(f"config.yaml cannot hold the settings: {reason}") from None
    for keys, value, read in changed:
        name = ".".join(str(key) for key in keys if key != "init_args")
        raise UserError(f"config.yaml cannot hold {name}: {value!r:.100} would be read back as {read!r:.100}")
    return settings


def without_unwritable(value: Any, dumped: Any) -> Any:
    """Return dumped settings with plain values as they were, without arguments that jsonargparse could not write."""
    if isinstance(value, bool | int | float | str) and not isinstance(value, Enum):
        return value  # jsonargparse cannot write some, such as a Number, or the name of a function
    if isinstance(value, Namespace) and isinstance(dumped, dict):
        kept = {key: without_unwritable(value.get(key), each) for key, each in dumped.items()}
        return {key: each for key, each in kept.items() if isinstance(each, dict) or UNWRITABLE not in str(each)}
    if isinstance(value, list) and isinstance(dumped, list):
        return [without_unwritable(*each) for each in zip(value, dumped, strict=True)]
    return dumped


def leave_out(settings: dict[str, Any], keys: tuple[Any, ...]) -> None:
    """Delete an argument of a class; of an element of a list, the argument that holds the list."""
    end = max((i for i, key in enumerate(keys) if key == "init_args"), default=len(keys))
    holder: Any = settings
    for key in keys[: end + 1]:
        holder = holder.get(key) if isinstance(holder, dict) else holder[key]
    if len(keys) > end + 1:
        holder.pop(keys[end + 1], None)


def named_settings(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float | str]]:
    """Yield the settings of a config by the names that a command line takes."""
    for key, value in settings.items():
        name = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from named_settings(value, name)
        elif value is not None:
            yield name, value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
