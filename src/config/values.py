"""Check the values of settings that jsonargparse accepts."""

import inspect
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from jsonargparse import Namespace

from src import UserError, require


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
    known = {}
    if isinstance(settings.get("class_path"), str):
        known = parameters(settings["class_path"])
        for name, value in vars(settings.get("init_args") or Namespace()).items():
            if name in known and is_path_of(known[name].default, value):
                settings["init_args"][name] = known[name].default  # the parser may import only what a config may name
        for name, value in vars(settings.get("init_args") or Namespace()).items():
            if value is None and name in known and (hint := required_type(known[name])):
                raise UserError(f"{key}.{name} must be {hint}, got null")
    for name, value in (settings if isinstance(settings, Mapping) else vars(settings)).items():
        if name == "init_args":
            given = {} if value is None else vars(value)
            value = Namespace({k: v for k, v in given.items() if k not in known or repr(v) != repr(known[k].default)})
        check_values(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))


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
