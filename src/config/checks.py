"""Check config files and the values of settings, and compare settings. Does not import torch."""

import difflib
import inspect
import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import accumulate
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml

from src import UserError, require

SETTINGS: tuple[str, ...] = ("seed_everything", "trainer", "model", "data", "name", "test", "compile", "channels_last")
SETTINGS += ("best", "last", "non_finite")
# keys of configs with what one command alone reads
OWN_KEY = tuple(name for name in ("search",) if (Path(__file__).parents[1] / f"commands/{name}.py").is_file())

LARGEST, DEEPEST = 100_000, 100  # values and levels of a config, aliases resolved
PLAIN = (bool, int, float, str, tuple, set, dict, list)


def did_you_mean(word: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """Return a hint with the closest known word, or nothing."""
    names = {name.lower(): name for name in known if name != word}
    close = difflib.get_close_matches(word.lower(), names, 1, cutoff)
    return f", did you mean {prefix}{names[close[0]]}?" if close else ""


def check_yaml(file: Path, earlier: Sequence[str] = (), command: str = "fit") -> None:
    """Refuse a config, layered over earlier ones, that is no valid YAML, repeats a key or has an unknown section."""
    if not file.is_file():
        files = sorted(Path("configs").glob("**/*.yaml"), key=lambda file: (-len(file.parts), file))
        known = {each.stem: each for each in files}
        named = f", did you mean {known[file.stem]}?" if file.stem in known else ""
        hint = named or did_you_mean(str(file), map(str, known.values()))
        raise UserError(f"config {file} does not exist{hint}")
    try:
        tree = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except UnicodeDecodeError:
        raise UserError(f"config {file} is not UTF-8 text") from None
    except RecursionError:
        raise UserError(f"config {file} is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"config {file}{where}: invalid YAML: {reason}") from None
    if not isinstance(tree, yaml.MappingNode):
        raise UserError(f"config {file} must hold settings, 'key: value', got {'nothing' if tree is None else tree.id}")
    check_keys(file, tree, [LARGEST])
    for key, value in tree.value:
        where, name = f"config {file}, line {key.start_mark.line + 1}", key.value
        if name in OWN_KEY and name != command:
            raise UserError(f"{where}: {name} is for another command: type python -m src.cli {name} --config ...")
        if name not in (*SETTINGS, "ckpt_path", *OWN_KEY):
            hint = import_module("src.config.help").hint_at_top([*earlier, str(file)], name)
            raise UserError(f"{where}: unknown setting {name}{hint}")
        if name in ("trainer", "best", "last") and not isinstance(value, yaml.MappingNode):
            raise UserError(f"{where}: {name} must hold settings, 'key: value', got {value.value or 'nothing'}")
        if name == "name" and not value.value:
            raise UserError(f"{where}: name must be a word, got nothing")


def check_keys(file: Path, node: yaml.Node, left: list[int], depth: int = 0) -> None:
    """Refuse tags that name code, keys that are not scalars, duplicate keys, and more than LARGEST values in all."""
    left[0] -= 1
    aliases = "an alias that contains itself" if depth > DEEPEST else f"more than {LARGEST:,} values"
    require(left[0] >= 0 and depth <= DEEPEST, f"config {file} has {aliases}")
    if ":python/" in node.tag:
        raise UserError(f"config {file}, line {node.start_mark.line + 1}: a tag must not name code, got {node.tag}")
    lines: dict[str, int] = {}
    for key, value in children(node):
        if key is not None:
            line = key.start_mark.line + 1
            where = f"config {file}, line {line}"
            require(isinstance(key, yaml.ScalarNode), f"{where}: a key must be a word, got a {key.id}")
            if key.value in lines:
                raise UserError(f"{where}: key {key.value!r} is already set in line {lines[key.value]}")
            lines[key.value] = line
        check_keys(file, value, left, depth + 1)


def check_setting(setting: str) -> None:
    """Refuse a typed value that is nested too deeply for the parser."""
    opened = sum(setting.count(bracket) for bracket in "[{")
    require(
        opened <= LARGEST // 100, f"{setting[:40]}... has {opened:,} brackets, but may have at most {LARGEST // 100:,}"
    )
    deepest = max(accumulate((character in "[{") - (character in "]}") for character in setting), default=0)
    require(deepest <= DEEPEST, f"{setting[:40]}... is nested too deeply")


def children(node: yaml.Node | None) -> list[tuple[yaml.Node | None, yaml.Node]]:
    """Return the entries of a mapping or list as pairs of a key, None in a list, and a value."""
    if isinstance(node, yaml.SequenceNode):
        return [(None, value) for value in node.value]
    return node.value if isinstance(node, yaml.MappingNode) else []


def check_values(settings: Any, key: str = "") -> None:
    """Refuse NaN, infinity, and null for an argument that cannot be None, unless it is the default.

    jsonargparse accepts all three. Replace the path of a function that is the default by the function.
    """
    if isinstance(settings, float) and not isfinite(settings):
        raise UserError(f"{key} must be a finite number, got {settings}")
    if isinstance(settings, list):
        for i, each in enumerate(settings):
            check_values(each, f"{key}.{i}")
    if not isinstance(settings, Mapping | Namespace):
        return
    known: dict[str, inspect.Parameter] = {}
    entries: Any = settings if isinstance(settings, Mapping) else vars(settings)
    given = vars(entries.get("init_args") or Namespace())
    if isinstance(entries.get("class_path"), str):
        known = parameters(entries["class_path"])
    for name, value in [each for each in given.items() if each[0] in known]:
        if is_path_of(known[name].default, value):
            given[name] = known[name].default  # the parser may import only what a config may name
        if value is None and (hint := required_type(known[name])):
            raise UserError(f"{key}.{name} must be {hint}, got null")
    changed = {k: v for k, v in given.items() if k not in known or repr(v) != repr(known[k].default)}
    for name, value in entries.items():
        init = name == "init_args"
        check_values(changed if init else value, key if init else f"{key}.{name}".lstrip("."))


def parameters(class_path: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class and of its parents, or of a function that returns an object."""
    module, _, name = class_path.rpartition(".")
    found = getattr(import_module(module), name)
    constructors = [vars(parent)["__init__"] for parent in getattr(found, "__mro__", ()) if "__init__" in vars(parent)]
    known: dict[str, inspect.Parameter] = {}
    for constructor in constructors or [found]:
        known = {**inspect.signature(constructor).parameters, **known}
    return known


def is_path_of(function: Any, path: Any) -> bool:
    """Tell whether a text is the dotted path of a function that is the default of an argument."""
    if not callable(function) or not isinstance(path, str):
        return False
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None) is function


def required_type(parameter: inspect.Parameter) -> str:
    """Return the type of an argument that must not be None, an empty string for one that may be."""
    kind = parameter.annotation
    unknown = kind in (parameter.empty, Any, object, NoneType) or isinstance(kind, str)
    choices = get_args(kind)
    if unknown or parameter.default is None or NoneType in choices or None in choices:
        return ""
    return re.sub(r"(\w+\.)+", "", inspect.formatannotation(kind))


def check_training(trainer: Any, name: str) -> None:
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


def changes(config: Any, again: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Yield each setting, or argument of a class, that differs between two configs: its keys and both values.

    No arguments, as of a class that replaces another on the command line, equal none.
    """
    config, again = (None if isinstance(each, Namespace) and not vars(each) else each for each in (config, again))
    if isinstance(config, Namespace) and isinstance(again, Namespace):
        for key in vars(config) | vars(again) if keys else SETTINGS:
            yield from changes(vars(config).get(key), vars(again).get(key), (*keys, key))
    elif isinstance(config, list) and isinstance(again, list) and len(config) == len(again):
        for i, pair in enumerate(zip(config, again, strict=True)):
            yield from changes(*pair, (*keys, i))
    elif type(config) is not type(again) or (isinstance(config, PLAIN) and repr(config) != repr(again)):
        yield keys, config, again
