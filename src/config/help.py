"""The help of a command: the settings that people type, for the classes of the given configs; all that exist."""

import argparse
import inspect
import re
import sys
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer

from src import UserError
from src.config.arguments import Options
from src.config.checks import SETTINGS
from src.config.hints import closest_setting, unknown_settings
from src.config.paragraphs import COLUMNS, paragraphs
from src.config.parser import make_parser
from src.config.trust import Trust
from src.engine.patches import import_object, imports_checked, required_optional
from src.runs.summary import echo

LINES = 60
TRAINER: tuple[str, ...] = (
    "max_epochs",
    "max_steps",
    "max_time",
    "accelerator",
    "devices",
    "strategy",
    "precision",
    "callbacks",
)
TRAINER += ("accumulate_grad_batches", "gradient_clip_val", "check_val_every_n_epoch", "limit_train_batches", "logger")
OTHERS = ("seed_everything", "name", "test", "compile", "best.monitor", "last.every_n_steps", "ckpt_path")
TYPED = ("lr", "weight_decay", "momentum", "betas", "nesterov", "label_smoothing", "weight", "gamma", "step_size")


def print_help(options: Options, config: Namespace) -> None:
    """Print at most 60 lines: the command's description, then settings with their values and first words of help."""
    rows = [(f"trainer.{name}", config.trainer[name], describe(Trainer, name)) for name in TRAINER]
    rows += [(name, config.get(name), "") for name in OTHERS]
    classes = [*class_rows("model", config.get("model")), *class_rows("data", config.get("data"))]
    given = " and ".join(options.config) or "a run (add --config FILE for those of its model and data)"
    head = [f"usage: python -m src.cli {options.command} [--config FILE] [--run DIR] [--key=value ...]", ""]
    head += [*paragraphs(options.description), "", f"Settings of {given}; --help-all explains all of them:"]
    left = LINES - len(head) - len(rows)
    lines = [line(*row) for row in [*classes[:left], *rows]]
    echo("\n".join(text[:COLUMNS].rstrip() for text in [*head, *lines]))
    sys.exit(0)


def line(key: str, value: Any, text: str) -> str:
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    if isinstance(value, list):
        shown = "[...]" if value else "[]"
    elif isinstance(value, tuple):
        shown = f"[{','.join(map(str, value))}]"
    elif callable(value):
        shown = f"{value.__module__}.{value.__name__}"
    setting = f"  --{key}={shown}"
    return f"{setting:<44} {shorten(text, max(COLUMNS - 45, 0), placeholder=' ...')}" if len(setting) < 45 else setting


def class_rows(key: str, value: Any) -> list[tuple[str, Any, str]]:
    """Return a row for a class and for its arguments; for classes of libraries only what is often typed."""
    if not isinstance(value, Namespace) or "class_path" not in value:
        return []
    path, arguments = value.class_path, vars(value.get("init_args") or Namespace())
    found = import_object(path, check_path=False)
    own = path.startswith("src.")
    rows: list[tuple[str, Any, str]] = [(key, path, "")]
    for name, each in arguments.items():
        if isinstance(each, Namespace) and "class_path" in each:
            rows += class_rows(f"{key}.{name}", each)
        elif own or name in TYPED:
            rows.append((f"{key}.{name}", each, describe(found, name)))
    return rows


def describe(owner: Any, name: str) -> str:
    """Return the text about an argument in the docstrings of a class, its parents and their constructors."""
    for parent in getattr(owner, "__mro__", (owner,)):
        for text in (inspect.getdoc(parent), inspect.getdoc(vars(parent).get("__init__"))):
            if found := re.search(rf"^ *{name}(?: \(.*?\))?: *([^\n]+)", text or "", re.M):
                return found[1]
    return ""


def hint_at_top(configs: list[str], name: str) -> str:
    """Return a hint where a setting belongs that stands at the top of the last config, or what may stand there."""
    hint = closest_setting(name, settings_without(options := Options("fit", configs), Trust(options), name))
    return hint if hint.startswith(",") else f"; the settings at the top are {', '.join(SETTINGS)}"


def settings_without(options: Options, trust: Trust, *names: str) -> list[str]:
    """Return the names of all settings of a command, given those that do not exist and are to be left out."""
    leaves, parser, config = {name.rpartition(".")[2] for name in names}, make_parser(), Namespace()
    typed, unknown = [], False
    for each in options.settings:
        unknown = re.split(r"[-.]", each.partition("=")[0])[-1] in leaves if each[:1] == "-" else unknown
        typed += [] if unknown else [each]  # a value may follow its setting
    try:
        with imports_checked(trust.check_import), required_optional():
            for file in options.config:
                tree = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
                layer = without_keys({key: tree[key] for key in tree if key in SETTINGS}, leaves)
                config = parser.parse_object(layer, namespace=config, defaults=False)
            return list(parser.parse_args(typed, namespace=config).keys())
    except argparse.ArgumentError as error:  # perhaps because of other unknown settings
        others = {*names, *unknown_settings(error.message)}
        return settings_without(options, trust, *others) if len(others) > len({*names}) else []
    except UserError:
        return []


def without_keys(tree: Any, keys: set[str]) -> Any:
    """Return nested settings without some keys."""
    if isinstance(tree, list):
        return [without_keys(value, keys) for value in tree]
    return {k: without_keys(v, keys) for k, v in tree.items() if k not in keys} if isinstance(tree, dict) else tree
