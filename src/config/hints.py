"""Condense jsonargparse's messages into one line, with a hint at the setting or class that was probably meant."""

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import groupby
from pathlib import Path

from src.config.checks import SETTINGS, did_you_mean

EXTRAS = ("kornia", "mlflow", "timm", "wandb")
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
NAMED = (  # settings and other names of them
    "max_epochs: epochs num_epochs n_epochs, max_steps: steps num_steps iterations, lr: learning_rate base_lr,"
    "batch_size: bs batch batchsize, weight_decay: wd l2, seed_everything: seed random_seed, data: dataset datamodule,"
    "devices: gpus num_gpus device, num_workers: workers, root: path data_dir data_path data_root dataset_path,"
    "num_classes: classes n_classes, schedule: scheduler lr_scheduler sched, warmup_steps: warmup warmup_epochs,"
    "optimizer: opt optim, loss: criterion loss_fn, net: network backbone arch architecture, precision: amp half,"
    "size: img_size image_size imgsz resolution, folds: val_split val_fraction validation_split,"
    "augment: augmentation augmentations transforms transform, ckpt_path: ckpt checkpoint, weights: pretrained,"
    "gradient_clip_val: clip grad_clip clip_grad clip_grad_norm max_grad_norm gradient_clip,"
    "accumulate_grad_batches: accumulate grad_accum accumulation accumulation_steps gradient_accumulation_steps,"
    "name: run_name experiment exp_name experiment_name, default_root_dir: out output_dir save_dir log_dir,"
    "log_every_n_steps: log_every log_interval"
)
MORE = {"callbacks": "lightning.pytorch.callbacks", "loss": "src.losses", "net": "torchvision.models"}  # classes
RENAMED = {"final": "final_ratio", "start": "start_ratio", "rise": "pct_start", "every": "step_fraction"}
RENAMED |= {"most_in_a_row": "max_consecutive", "test_share": "test_fraction"}
RENAMED |= {"on_out_of_memory": "--config configs/presets/micro_batches.yaml"}


def explain(message: str, known: Callable[[str], Iterable[str]] = lambda _: ()) -> str:
    """Condense jsonargparse's multi-line message: setting, expected, got, and the closest valid name.

    ``known`` returns the settings that exist if the one of the given name is left out.
    """
    keys = re.findall(r'Parser key "([^"]+)":', message)
    key = ".".join(name for name, _ in groupby(keys))  # each type of a union repeats it
    prefix, section = (f"{key}: ", f"{key}.") if key else ("", "")
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return f"{prefix}{found[1]} has no {found[2]}{closest_attribute(found[1], found[2])}"
    if found := re.search(r"No module named '([\w.]+)'", message):
        if (package := found[1].partition(".")[0]) in EXTRAS:
            return f"{prefix}{package} is not installed: run make extras"
        parent, _, name = found[1].rpartition(".")
        return f"{prefix}there is no module {found[1]}{closest_attribute(parent, name) if parent else ''}"
    if found := re.search(r"argument (--\S+): expected one argument", message):
        return f"{found[1]} needs a value: type {found[1]}=VALUE"
    if found := re.search(r"Unable to load config ['\"](.*?)['\"]", message):
        return f"{prefix}must hold settings, such as {key}.KEY=VALUE, got {found[1]}"
    if found := re.search(r"Multiple subclasses with name (\w+)\..*?: (.*)\.", message):
        return f"{prefix}{found[1]} is the name of several classes, type one of {found[2]}"
    if found := re.search(r"Unexpected import object <module '([\w.]+)'", message):
        return f"{prefix}must be a class path such as {example(key)}, got the module {found[1]}"
    if found := re.search(r"unrecognized arguments: (.*)", message):
        if not found[1].startswith("-"):
            how = f"type --config {found[1]}" if found[1].endswith(".yaml") else "settings are typed as --key=value"
            return f"unexpected {found[1]!r}: {how}"
        shown = found[1].split(" -")[0]
        return f"unknown setting {shown}{closest_setting(name := unknown_settings(message)[0], known(name))}"
    if unknown := unknown_settings(message):
        return (
            f"unknown setting {section}{unknown[0]}{closest_setting(section + unknown[0], known(section + unknown[0]))}"
        )
    if found := re.search(r"the following arguments are required: (.*?)(?:\. Got value.*)?$", message, re.M):
        return f"{section}{found[1]} is required{'' if key else '; choose a config with --config'}"
    return prefix + explain_type(message, key)


def unknown_settings(message: str) -> list[str]:
    """Return the names of the settings that do not exist according to a message."""
    if found := re.search(r"unrecognized arguments: (.*)", message):
        return [name.lstrip("-") for name in re.findall(r"(?:^| )(-[^ =]*)", found[1])]
    return re.findall(r"(?:Option|accept option) '([^']+)'", message)[:1]


def explain_type(message: str, key: str) -> str:
    """Return the expected types and the value from jsonargparse's message about one setting."""
    value = re.search(r"(?:[Gg]iven|Got) value: (.*)", message)
    got = value[1].split(". Got value:")[0] if value else ""
    got = re.sub(r"NestedArg\(key=.*, val=(.*)\)$", r"\1", got).strip("'")
    if found := re.search(r"(?:subclass of|function that returns) (?:<class ')?(?:\w+\.)*(\w+)", message):
        got = re.sub(r"Namespace\(class_path='(.*?)'.*", r"\1", got)
        a = "an" if found[1][0] in "AEIOU" else "a"
        return f"must be a class path of {a} {found[1]}, got {got}{other_lightning(got)}"
    kinds = re.findall(r"Expected an? (.*?)(?:\. Got value.*)?$", message, re.M)
    kinds = [kind for kind in kinds if not re.search("NoneType|path but|dot import path", kind)]
    path = re.search(r"Expected a dot import path string: (.*)", message)
    if path and (key.endswith("logger") or set(kinds) <= {"<class 'list'>"}):
        others = "true, false or " if key.endswith("logger") else ""
        typed = f"{path[1] or repr('')}{closest_class(key, path[1])}"
        return f"must be {others}a class path such as {example(key)}, got {typed}"
    if kinds:
        names = dict.fromkeys(re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>|typing\.", r"\1", kind) for kind in kinds)
        one = f"; add one with --{key}+={got}" if [*names] == ["list"] and got.isidentifier() else ""
        return f"must be {' or '.join(names)}, got {got or repr('')}{one}"
    return " ".join(line.strip(" -") for line in message.splitlines() if line.strip())[:400]


def example(key: str) -> str:
    return EXAMPLES.get(re.sub(r"\.\d+$|\+$", "", key).rpartition(".")[2], "src.nets.SmallCNN")


def closest_attribute(module: str, name: str) -> str:
    known = [key for key in dir(import_module(module)) if not key.startswith("_")]
    return did_you_mean(name, known, f"{module}.") or f"; it has {', '.join(known[:20])}"


def closest_class(key: str, name: str) -> str:
    """Return a hint with the class that a short or misspelled name means, of this project or of a library."""
    kind, word = re.sub(r"\.\d+$|\+$", "", key).rpartition(".")[2], name.lower().replace("_", "")
    modules = [import_module(each) for each in (example(key).rpartition(".")[0], MORE.get(kind)) if each]
    names = {
        each: module.__name__
        for module in modules[::-1]
        for each, found in vars(module).items()  # torchvision's classes of nets need more than its functions
        if callable(found) and inspect.isclass(found) != (module.__name__ == MORE["net"])
    }
    starts = sorted((each for each in names if len(word) > 2 and each.lower().startswith(word)), key=len)
    close = starts or [each for each in names if did_you_mean(word, [each], cutoff=0.85)]
    return f", did you mean {names[close[0]]}.{close[0]}?" if close else ""


def closest_setting(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known setting of the same name, a renamed or a similar one, or where all are listed."""
    known = [*known]
    short = {re.sub(r"\.init_args|\.class_path$", "", key): None for key in known}
    group, _, last = name.rpartition(".")
    if last in RENAMED:
        last = RENAMED[last]
        if last.startswith("--"):
            return f"; it is {last} now"
    if alias := last and re.search(rf"(\w+):[\w ]* {re.escape(last)}\b", NAMED):
        last = alias[1]
    same = sorted((key for key in short if key.rpartition(".")[2] == last), key=lambda key: (key.count("."), len(key)))
    same.sort(key=lambda key: (not key.startswith(f"{group}."), last == "lr" and "optimizer" not in key))
    if same and same[0] != name:
        return f", did you mean {same[0]}?"
    inside = [key.removeprefix(f"{group}.") for key in short if group and key.startswith(f"{group}.")]
    alike = [] if inside else [key for key in (*short, *SETTINGS) if key.count(".") == name.count(".")]
    if hint := did_you_mean(last, inside, f"{group}.", 0.75) or did_you_mean(name, alike, cutoff=0.8):
        return hint
    if known and "model.class_path" not in known:
        return "; choose model and data with --config FILE"
    preset = f"configs/presets/{name.rpartition('.')[2]}.yaml"
    if Path(preset).is_file():
        return f", did you mean --config {preset}?"
    direct = [key for key in inside if "." not in key]
    return f"; {group} has {', '.join(direct)}" if 0 < len(direct) <= 16 else "; --help-all lists all settings"


def other_lightning(path: str) -> str:
    """Return a hint if a class derives from pytorch_lightning, or if a function does not name what it returns."""
    module, _, name = path.rpartition(".")
    parents = inspect.getmro(found) if inspect.isclass(found := getattr(sys.modules.get(module), name, None)) else ()
    if inspect.isfunction(found) and "return" not in found.__annotations__:
        return f": write what the function returns, such as def {name}(...) -> torch.nn.Module"
    if not any(parent.__module__.startswith("pytorch_lightning.") for parent in parents):
        return ""
    return ", which derives from pytorch_lightning: import lightning.pytorch as pl instead of pytorch_lightning"
