"""Check the values of settings, compare them, and draw a seed."""

import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib import import_module
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from jsonargparse import Namespace

from src import UserError, require
from src.config.files import SETTINGS

PLAIN = (bool, int, float, str, tuple, set, dict, list)


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


def random_seed() -> int:
    """Draw a seed that is the same in all processes of a run."""
    if "PL_GLOBAL_SEED" in os.environ and "LOCAL_RANK" in os.environ:  # the parent process drew it
        return int(os.environ["PL_GLOBAL_SEED"])
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    job = [os.environ.get(name, "") for name in names]
    size = os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))
    one_node = os.environ.get("LOCAL_WORLD_SIZE", size) == size and os.environ.get("SLURM_NNODES", "1") == "1"
    launcher = os.getppid() if one_node else 0  # each node has a launcher of its own
    key = repr([*job, launcher]).encode() if int(size) > 1 else os.urandom(8)
    return int.from_bytes(sha256(key).digest()[:4], "big")


def changes(config: Any, again: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Yield each setting, or argument of a class, that differs between two configs: its keys and both values."""
    if isinstance(config, Namespace) and isinstance(again, Namespace):
        for key in vars(config) | vars(again) if keys else SETTINGS:
            yield from changes(config.get(key), again.get(key), (*keys, key))
    elif isinstance(config, list) and isinstance(again, list) and len(config) == len(again):
        for i, pair in enumerate(zip(config, again, strict=True)):
            yield from changes(*pair, (*keys, i))
    elif type(config) is not type(again) or (isinstance(config, PLAIN) and repr(config) != repr(again)):
        yield keys, config, again


def leave_out(settings: dict[str, Any], keys: tuple[Any, ...]) -> None:
    """Delete an argument of a class; of an element of a list, the argument that holds the list."""
    end = max((i for i, key in enumerate(keys) if key == "init_args"), default=len(keys))
    holder: Any = settings
    for key in keys[: end + 1]:
        holder = holder.get(key) if isinstance(holder, dict) else holder[key]
    if len(keys) > end + 1:
        holder.pop(keys[end + 1], None)
