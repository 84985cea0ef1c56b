"""What a config may hold without ``--trust``: a config from elsewhere must not run code or write files elsewhere."""

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, Sampler

from src import UserError
from src.config.arguments import Options
from src.config.checks import is_path_of
from src.engine.patches import import_object

# importing a module runs it, so only modules of these packages are imported
TRUSTED = ("src", "scripts", "tests", "tools", "torch", "torchvision", "torchmetrics", "lightning", "kornia", "timm")
ROOMS = ("callbacks", "data", "losses", "nets", "optim", "tasks", "metrics")  # whose classes and functions are trusted
MACHINERY = ("src.cli", "src.commands", "src.config", "src.data.loading", "src.engine", "src.runs")
WRITERS = (Callback, Logger, Profiler)
KINDS: tuple[type, ...] = (
    nn.Module,
    LightningDataModule,
    Optimizer,
    LRScheduler,
    Dataset,
    Sampler,
    Strategy,
    Accelerator,
    *WRITERS,
)
KINDS += (Precision, LayerSync, CheckpointIO, ClusterEnvironment)
FUNCTIONS = ("torch.nn.functional", "torch.nn.init")
NETS = "timm.models."
FOLDERS = ("dirpath", "save_dir", "root_dir", "log_dir", "dir", "version")  # arguments of WRITERS


class Trust:
    """The rules for the configs of a command; what was typed may name and write anything."""

    def __init__(self, options: Options) -> None:
        self.options, self.typed = options, [each for each in options.settings if each not in options.chosen]
        self.files = {file: Path(file).absolute() for file in options.config}  # the parser changes the folder
        self.refused: dict[str, str] = {}  # path -> error message

    def check_import(self, path: str) -> None:
        """Refuse a dotted path of a value that is neither trusted nor typed, without importing foreign code."""
        if path and not is_trusted(path) and not self.allows(path):  # the parser explains an empty one
            self.refused[path] = f"{self.place(path)}{path} {fault(path)}; if you trust it, {HOW}"
            if path == "torch.Tensor":  # what the function returns whose arguments are typed
                how = "such as --model.loss=src.losses.FocalLoss --model.loss.gamma=2"
                self.refused[path] = f"a function has no settings: name a class first, {how}"
            raise UserError(self.refused[path])

    def check_values(self, settings: Namespace) -> None:
        """Refuse what was not imported yet but would be, addresses, and files outside the run folder."""
        for key, value, writer in walk(settings):
            name, text = key.rpartition(".")[2], str(value)
            of_timm = str(getattr(writer, "__module__", "")).startswith(NETS) and name != "class_path"
            if of_timm and isinstance(value, str):  # may name files and downloads
                self.require_typed(key, text, "of a net of timm must be a number, true or false")
            function = text in self.refused and "." in text and not is_default(writer, name, value)
            if name == "class_path" or function:
                self.check_import(text)  # also of a dictionary
            if name == "class_path" or not isinstance(value, str | Path | int):
                continue
            if re.search(r"\w\w:/", text) and not re.fullmatch(r"sqlite:///runs/[\w/.-]*", text.replace("..", ":")):
                self.require_typed(key, text, "must not be an address")
                continue
            exists = name == "separator" or (name == "root" and Path(text).expanduser().is_dir())  # needs no download
            leaves = (writer or name == "cache") and re.search(r"^[/~]|(^|[/\\:])\.\.([/\\]|$)", text) and not exists
            folder = writer and name in FOLDERS
            if (leaves or (folder and not below_runs(name, text))) and not is_default(writer, name, value):
                self.require_typed(key, text, "must not leave the run folder")
        if isinstance(settings.compile, dict) and "options" in settings.compile:  # one of them is the C++ compiler
            self.require_typed("compile.options", str(settings.compile["options"]), "must not be set by a config")

    def require_typed(self, key: str, text: str, rule: str) -> None:
        short = key.replace(".init_args", "")
        if not self.allows(text) and not any(each.split("=")[0] == f"--{short}" for each in self.typed):
            raise UserError(f"{self.place(text)}{short} {rule}, got {text!r}; type --{short}=..., or {HOW}")

    def allows(self, text: str) -> bool:
        """Tell whether a text is typed, or everything is trusted; note that the run needs ``--trust`` from now on."""
        typed = text and re.search(rf"(?<![\w./-]){re.escape(text)}(?![\w./-])", "\n".join(self.typed))
        allowed = self.options.trust or bool(typed)
        self.options.needs_trust |= allowed
        return allowed

    def place(self, text: str) -> str:
        """Return the config and line in which a text stands, if it is one of the command's configs."""
        for file, path in self.files.items() if text else ():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if text in line:
                    return f"config {file}, line {number}: "
        return ""


HOW = "add --trust (load_run: trust=True)"


def fault(path: str) -> str:
    if path.partition(".")[0] not in TRUSTED:
        return f"is code outside {', '.join(TRUSTED)}"
    return "is none of what configs may name, such as a module, optimizer, callback or function of torch.nn.init"


def is_machinery(path: str) -> bool:
    return path.startswith(MACHINERY) and not path.startswith("src.engine.sharding")  # a strategy, for configs


def is_trusted(path: str) -> bool:
    """Tell whether a dotted path may be imported and called: a class of a known kind, or a function without effects."""
    top, *names = path.split(".")
    if top not in TRUSTED or any(name.startswith("_") for name in names) or is_machinery(path):
        return False
    try:
        found = import_object(path, check_path=False)
    except Exception:  # such as a misspelled name: the parser explains it
        return True
    home = str(getattr(found, "__module__", ""))
    home = "" if home.startswith(f"{NETS}_") else home  # such as create_model, which reads files
    if not callable(found):
        return True
    if home.split(".")[0] not in TRUSTED or is_machinery(home):
        return False
    if home.startswith(tuple(f"src.{room}" for room in ROOMS)) or path.rpartition(".")[0] in FUNCTIONS:
        return home.startswith(("src", *FUNCTIONS, "torch._C._nn")) or home == "torch"
    if inspect.isclass(found) and top != "timm":  # whose datasets may run code
        return issubclass(found, KINDS) or home.startswith("torchvision.transforms.")
    made = inspect.signature(found).return_annotation if home.startswith(("torchvision.models.", NETS)) else None
    return inspect.isclass(made) and issubclass(made, nn.Module)


def walk(settings: Any, key: str = "", writer: Any = None) -> Iterator[tuple[str, Any, Any]]:
    """Yield key, value and, if there is one, the class that writes files for each value of nested settings."""
    if isinstance(settings, list | tuple):
        for i, value in enumerate(settings):
            yield from walk(value, f"{key}.{i}", writer)
    elif isinstance(settings, Mapping | Namespace):
        items = dict(settings) if isinstance(settings, Mapping) else vars(settings)
        if isinstance(path := items.get("class_path"), str):
            found = import_object(path, check_path=False) if is_trusted(path) else None
            writes = inspect.isclass(found) and (issubclass(found, WRITERS) or hasattr(found, "dataset"))
            writer = found if writes or path.startswith(NETS) else None
        for name, value in items.items():
            yield from walk(value, f"{key}.{name}".lstrip("."), Callback if name in ("best", "last") else writer)
    else:
        yield key, settings, writer


def below_runs(name: str, folder: str) -> bool:
    """Tell whether a logger's folder is below runs/, where a logger makes a new folder for each run."""
    return name in ("save_dir", "dir") and Path(folder).parts[:1] == ("runs",)


def is_default(writer: Any, name: str, value: Any) -> bool:
    argument = inspect.signature(writer).parameters.get(name) if writer else None
    return argument is not None and (argument.default == value or is_path_of(argument.default, value))
