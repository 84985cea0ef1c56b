"""Hints of error messages: the setting or class that was probably meant."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterable

from src.config.checks import SETTINGS, did_you_mean

EXAMPLES = {
    "model": "src.tasks.Classifier",
    "data": "src.data.Digits",
    "loss": "torch.nn.CrossEntropyLoss",
    "optimizer": "torch.optim.AdamW",
    "schedule": "src.optim.Cosine",
    "augment": "src.data.RandomFlip",
    "mix": "src.data.MixUp",
    "callbacks": "src.callbacks.EMA",
    "logger": "lightning.pytorch.loggers.CSVLogger",
    "profiler": "lightning.pytorch.profilers.SimpleProfiler",
    "init": "src.nets.Init",
    "penalties": "src.losses.L2",
}
ALIASES = {
    "epochs": "max_epochs",
    "steps": "max_steps",
    "learning_rate": "lr",
    "bs": "batch_size",
    "wd": "weight_decay",
}
ALIASES |= {
    "seed": "seed_everything",
    "gpus": "devices",
    "workers": "num_workers",
    "path": "root",
    "classes": "num_classes",
}
RENAMED = {"final": "final_ratio", "start": "start_ratio", "rise": "pct_start", "every": "step_fraction"}
RENAMED |= {"most_in_a_row": "max_consecutive", "test_share": "test_fraction"}
RENAMED |= {"on_out_of_memory": "--config configs/presets/micro_batches.yaml"}


def example(key: str) -> str:
    return EXAMPLES.get(re.sub(r"\.\d+$|\+$", "", key).rpartition(".")[2], "src.nets.SmallCNN")


def closest_attribute(module: str, name: str) -> str:
    known = [key for key in dir(importlib.import_module(module)) if not key.startswith("_")]
    return did_you_mean(name, known, f"{module}.") or f"; it has {', '.join(known[:20])}"


def closest_setting(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known setting that was probably meant: of the same name, renamed, or of a similar name."""
    short = {re.sub(r"\.init_args|\.class_path$", "", key): None for key in known}
    group, _, last = name.rpartition(".")
    if last in RENAMED:
        last = RENAMED[last]
        if last.startswith("--"):
            return f"; it is {last} now"
    last = ALIASES.get(last, last)
    same = sorted((key for key in short if key.rpartition(".")[2] == last), key=lambda key: (key.count("."), len(key)))
    nearest = [key for key in same if key.startswith(f"{group}.")] + [
        key for key in same if last != "lr" or "optimizer" in key
    ]
    if nearest and nearest[0] != name:
        return f", did you mean {nearest[0]}?"
    inside = [key.removeprefix(f"{group}.") for key in short if group and key.startswith(f"{group}.")]
    alike = [] if inside else [key for key in (*short, *SETTINGS) if key.count(".") == name.count(".")]
    return did_you_mean(last, inside, f"{group}.", 0.75) or did_you_mean(name, alike, cutoff=0.8)


def other_lightning(path: str) -> str:
    """Return a hint if a class derives from pytorch_lightning, or if a function does not name what it returns."""
    module, _, name = path.rpartition(".")
    parents = inspect.getmro(found) if inspect.isclass(found := getattr(sys.modules.get(module), name, None)) else ()
    if inspect.isfunction(found) and "return" not in found.__annotations__:
        return f": write what the function returns, such as def {name}(...) -> torch.nn.Module"
    if not any(parent.__module__.startswith("pytorch_lightning.") for parent in parents):
        return ""
    return ", which derives from pytorch_lightning: import lightning.pytorch as pl instead of pytorch_lightning"
