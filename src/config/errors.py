"""One line for each mistake in a command line or config."""

import errno
import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from jsonargparse import Namespace

from src import UserError
from src.arguments import SETTINGS, nearest

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


def users_mistake(error: Exception) -> UserError | None:
    """Return an error as the user's mistake, or None where it is one of the code's.

    The user's are: what the project or Lightning says is one, and a value that a constructor refuses.
    """
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    if isinstance(error, UserError):
        return error
    if isinstance(error, MisconfigurationException):
        hint = "; choose another with --best.monitor" if "ModelCheckpoint(monitor" in str(error) else ""
        return UserError(" ".join(str(error).split()) + hint)
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "DefaultCPUAllocator" in str(error):
        return UserError(
            "out of memory: type --model.on_out_of_memory=halve, or a smaller --data.batch_size, or add "
            "--config configs/presets/bf16.yaml or checkpointing.yaml; what was saved is whole"
        )
    if isinstance(error, OSError) and error.errno in DISK:
        return UserError(f"cannot write {error.filename or 'a file'}: {error.strerror}; what was saved is whole")
    link: BaseException | None = error
    while isinstance(link, ValueError) or (isinstance(link, RuntimeError) and link is not error):
        # jsonargparse wraps what a constructor raises in errors of its own
        if isinstance(link, UserError):
            return link
        if missing := re.search(r"Requirement '([\w-]+)\S* not met", str(link)):
            return UserError(f"{missing[1]} is not installed: make extras installs it")
        if raised_where_settings_are_taken(link):
            return UserError(" ".join(str(link).split()))
        link = link.__cause__ or link.__context__
    return None


def raised_where_settings_are_taken(error: BaseException) -> bool:
    """Tell whether a constructor raised an error, torch's own if a RuntimeError, or anything of Lightning's."""
    import lightning
    import torch

    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace is not None else None
    if code is None:
        return False
    in_torch, in_lightning = (Path(code.co_filename).is_relative_to(Path(m.__path__[0])) for m in (torch, lightning))
    return in_lightning or (code.co_name == "__init__" and (in_torch or not isinstance(error, RuntimeError)))


def check_values(settings: Any, key: str = "") -> None:
    """Refuse null where the class that a setting is for takes none, which jsonargparse lets pass, and nan and inf.

    Raises:
        UserError: with the setting's whole name.
    """
    if isinstance(settings, float) and not isfinite(settings):
        raise UserError(f"{key} must be a finite number, got {settings}")
    if isinstance(settings, list):
        for i, each in enumerate(settings):
            check_values(each, f"{key}.{i}")
    if not isinstance(settings, Mapping | Namespace):
        return
    if isinstance(settings.get("class_path"), str):
        hints = type_hints(settings["class_path"])
        for name, value in vars(settings.get("init_args") or Namespace()).items():
            if value is None and name in hints:
                raise UserError(f"{key}.{name} must be {hints[name]}, got null")
    for name, value in (settings if isinstance(settings, Mapping) else vars(settings)).items():
        check_values(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))


def check_training(trainer: Namespace, name: str) -> None:
    """Refuse settings of the Trainer that it would divide by, or train nothing with, and a run's name that leads away.

    Raises:
        UserError: with the setting's whole name.
    """
    for key in ("accumulate_grad_batches", "val_check_interval", "limit_train_batches", "check_val_every_n_epoch"):
        if isinstance(trainer[key], int | float) and trainer[key] <= 0:
            raise UserError(f"trainer.{key} must be more than 0, got {trainer[key]}")
    for key in ("max_epochs", "max_steps"):
        if trainer[key] == 0:
            raise UserError(f"trainer.{key} must be more than 0, or -1 for no limit, got 0")
    for key in ("gradient_clip_val", "log_every_n_steps"):
        if (trainer[key] or 0) < 0:
            raise UserError(f"trainer.{key} must be at least 0, got {trainer[key]}")
    if 0 <= (trainer.max_epochs or -1) < (trainer.min_epochs or 0):
        raise UserError(f"trainer.min_epochs must be at most max_epochs {trainer.max_epochs}, got {trainer.min_epochs}")
    path = Path(name)
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise UserError(f"name must be that of a folder below runs/, got {name!r}")


def check_monitors(trainer: Any, _: Any = None) -> None:
    """Refuse metrics that callbacks wait for and that the first look at the validation part did not log.

    Raises:
        UserError: with the callback and the metrics that are logged.
    """
    known = trainer.callback_metrics
    for callback in trainer.callbacks:
        name, strict = str(getattr(callback, "monitor", "")), getattr(callback, "strict", True)
        if strict and name.startswith("val/") and known and name not in known:
            choice = ", ".join(sorted(known))
            raise UserError(f"{type(callback).__name__}'s monitor {name} is not logged; choose of {choice}")


def check_clipping(trainer: Any) -> None:
    """Refuse to clip what Lightning does not: gradients of a fused optimizer in mixed precision."""
    fused = any(group.get("fused") for optimizer in trainer.optimizers for group in optimizer.param_groups)
    if fused and trainer.gradient_clip_val and str(trainer.precision).endswith("mixed"):
        raise UserError("trainer.gradient_clip_val must be 0 for a fused optimizer in mixed precision, or fused false")


def type_hints(class_path: str) -> dict[str, str]:
    """Return the types of those arguments of a class that must not be None."""
    module, _, name = class_path.rpartition(".")
    hints: dict[str, str] = {}
    for parent in getattr(getattr(importlib.import_module(module), name), "__mro__", ()):
        for parameter in inspect.signature(parent.__init__).parameters.values() if "__init__" in vars(parent) else ():
            kind = parameter.annotation
            optional = parameter.default is None or kind is Any or NoneType in get_args(kind)
            if kind is not parameter.empty and not isinstance(kind, str) and not optional:
                hints.setdefault(parameter.name, re.sub(r"(\w+\.)+", "", inspect.formatannotation(kind)))
    return hints


def explain(message: str) -> str:
    """Return what, expected, got and the nearest right name out of the many lines of jsonargparse."""
    key = ".".join(re.findall(r'Parser key "([^"]+)":', message))
    prefix = f"{key}: " if key else ""
    value = re.findall(r"[Gg]iven value: (.*)|Got value: (.*)", message)
    got = "".join(value[0]) if value else ""
    got = got.split(". Got value:")[0]
    got = re.sub(r"NestedArg\(key=.*, val=(.*)\)$", r"\1", got).strip("'")
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return f"{prefix}{found[1]} has no {found[2]}{near_attribute(found[1], found[2])}"
    if found := re.search(r"No module named '([\w.]+)'", message):
        parent, _, name = found[1].rpartition(".")
        return f"{prefix}there is no module {found[1]}{near_attribute(parent, name) if parent else ''}"
    if found := re.search(r"unrecognized arguments: (.*)", message):
        if not found[1].startswith("-"):
            return f"unexpected {found[1]!r}: settings are typed --key=value"
        name = found[1].split("=")[0].lstrip("-")
        return f"unknown setting {found[1]}{near_setting(name)}"
    if found := re.search(r"(?:[Oo]ption '([^']+)' is not accepted|does not accept option '([^']+)')", message):
        name = found[1] or found[2]
        return f"unknown setting {f'{key}.' if key else ''}{name}{near_setting(f'{key}.{name}' if key else name)}"
    if found := re.search(r"the following arguments are required: (.*)", message):
        name = re.sub(r"^(fit|validate|test|predict)\.", "", found[1])
        hint = "; name a config with --config" if not key else ""
        return f"{key + '.' if key else ''}{name} is required{hint}"
    if found := re.search(r"(?:subclass of|function that returns) (?:<class ')?(?:\w+\.)*(\w+)", message):
        return f"{prefix}must be a class path of a {found[1]}, got {got}"
    wanted = [
        w
        for w in re.findall(r"Expected an? (.*?)(?:\. Got value.*)?$", message, re.M)
        if not any(noise in w for noise in ("NoneType", "path but", "dot import path"))
    ]
    if set(wanted) <= {"<class 'list'>"} and (found := re.search(r"Expected a dot import path string: (.*)", message)):
        return f"{prefix}must be a class path such as src.nets.SmallCNN, got {found[1]}"
    if wanted:
        kinds = " or ".join(
            dict.fromkeys(re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>|typing\.", r"\1", kind) for kind in wanted)
        )
        return f"{prefix}must be {kinds}, got {got}"
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    return f"{prefix}{' '.join(lines)}"[:400]


def near_attribute(module: str, name: str) -> str:
    known = [key for key in dir(importlib.import_module(module)) if not key.startswith("_")]
    return nearest(name, known, f"{module}.") or f"; it has: {', '.join(known[:20])}"


def near_setting(name: str) -> str:
    """Return the nearest known name: of the top level, or of the arguments of all classes that a config can name."""
    group, _, last = name.rpartition(".")
    return nearest(last, argument_names(), f"{group}.", 0.75) if group else nearest(last, SETTINGS)


def argument_names() -> set[str]:
    from lightning import LightningDataModule, LightningModule, Trainer
    from torch.optim import Optimizer

    ours = [vars(module).values() for name, module in list(sys.modules.items()) if name.startswith("src.")]
    classes = [value for values in ours for value in values if inspect.isclass(value)]
    for parent in (LightningModule, LightningDataModule, Trainer, Optimizer):
        classes += [parent, *parent.__subclasses__()]
    named = {p for c in classes for p in inspect.signature(c.__init__).parameters} | {"class_path", "init_args"}
    return named - {"self", "args", "kwargs"}
