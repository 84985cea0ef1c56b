"""The command line: commands, their options and the settings, checked before torch is imported.

A command is a function ``run(options, *, ...)`` in ``src/commands/NAME.py``: its docstring is its help, and its
keyword-only arguments are its options. Both are read from the source, because importing the file would import torch.
"""

import argparse
import ast
import os
import re
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from src import UserError, require
from src.config.checks import check_setting, check_yaml, did_you_mean
from src.runs.folder import Run

COMMANDS = Path(__file__).parents[1] / "commands"
USAGE = """usage: python -m src.cli COMMAND [--config FILE] [--run DIR] [--key=value ...]

commands:
{commands}

options:
  --config FILE      a YAML of configs/; repeat it to layer files, the last wins
  --run DIR          a run folder: its config and best checkpoint (fit: last)
  --trust            allow configs to name code outside src, torch, ...
  --key=value        any setting of the YAML, such as --trainer.max_epochs=3
  --print_config     print the complete config, defaults included, and stop
  COMMAND --help     what is often typed, for the classes of a --config
  COMMAND --help-all every setting

examples:
{examples}
"""
SEVERAL = ("test", "predict", "report", "export")  # commands that take several runs
KINDS: dict[str, dict[str, Any]] = {  # annotation -> argparse
    "bool": {"action": "store_true"},
    "int": {"type": int},
    "float": {"type": float},
    "str": {},
    "int | None": {"type": int},
    "float | None": {"type": float},
    "str | None": {},
    "Path | None": {"type": Path},
    "list[float] | None": {"type": float, "nargs": "+"},
    "list[str] | None": {"nargs": "+"},
    "list[Path] | None": {"type": Path, "nargs": "+"},
}


@dataclass
class Options:
    """The part of the command line that all commands have in common."""

    command: str
    config: list[str] = field(default_factory=list)  # files, the last one wins
    run: Path | None = None
    others: list["Options"] = field(default_factory=list)  # of the other members of an ensemble
    trust: bool = False
    settings: list[str] = field(default_factory=list)  # everything else that was typed: --key=value
    description: str = ""  # the docstring of the command, for --help
    resumed: bool = False  # whether --resume chose the run
    needs_trust: bool = False  # whether its run will need --trust, because something untrusted was typed
    chosen: list[str] = field(default_factory=list)  # those of the settings that a config chose, not the user
    callbacks: list[Any] = field(default_factory=list)  # to add to those of the config
    owns_process: bool = False  # whether this is ``python -m src.cli``, which may handle signals


def command_names() -> list[str]:
    order = ["fit", "validate", "test", "predict"]
    names = sorted(
        file.stem for file in COMMANDS.glob("*.py") if re.search(r"^def run\(", file.read_text(encoding="utf-8"), re.M)
    )
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def describe(name: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the docstring of a command's ``run``, and argparse settings for its keyword-only arguments."""
    tree = ast.parse((COMMANDS / f"{name}.py").read_text(encoding="utf-8"))
    (run,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    options = {}
    for argument, default in zip(run.args.kwonlyargs, run.args.kw_defaults, strict=True):
        kind = ast.unparse(argument.annotation) if argument.annotation else "str | None"
        choices = re.fullmatch(r"Literal\[(.*?)\](?: \| None)?", kind)
        allowed = f"one of {', '.join(KINDS)} or Literal[...]"
        require(choices or kind in KINDS, f"src/commands/{name}.py: {argument.arg} must be {allowed}, got {kind}")
        settings = {"choices": ast.literal_eval(f"({choices[1]},)")} if choices else KINDS[kind]
        options[argument.arg] = settings | {"default": ast.literal_eval(default) if default else None}
    return ast.get_docstring(run) or "", options


def usage() -> str:
    docs = {name: describe(name)[0] or name for name in command_names()}
    lines = [f"  {name:<12}{doc[0].lower()}{doc.splitlines()[0][1:].rstrip('.')}" for name, doc in docs.items()]
    examples = [re.findall(r"^ *(python -m src\.cli .*)$", doc, re.M)[:1] for doc in docs.values()]
    return USAGE.format(commands="\n".join(lines), examples="\n".join(f"  {each[0]}" for each in examples if each))


def read(args: list[str]) -> tuple[Options, dict[str, Any]]:
    """Return the options that all commands have in common, and the command's own; check all of them and the configs.

    A job that SLURM or torchrun restarts resumes its run, as with ``--resume auto``.
    """
    names = command_names()
    if args[0] not in names:
        hint = did_you_mean(args[0], names)
        raise UserError(f"unknown command {args[0]!r}{hint}; commands: {', '.join(names)}")
    description, arguments = describe(args[0])
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--run", type=Path, action="append", default=[])
    parser.add_argument("--trust", action="store_true")
    for name, argument in arguments.items():
        parser.add_argument(f"--{name}", **argument)
    takes_any = args[0] == "report" or "models" in arguments  # folders of another kind than a run's
    words = args[1:] if args[0] != "new" else []  # whose words are no folders
    folders = [*takewhile(lambda each: not each.startswith("-") and (takes_any or Path(each).is_dir()), words)]
    typed = [f"--{'models' if 'models' in arguments else 'run'}={each}" for each in folders]
    require(len(folders) < 2 or "models" not in arguments, f"{args[0]} takes one folder of models, got {len(folders)}")
    try:
        known, settings = parser.parse_known_args([*typed, *args[1 + len(folders) :]])
    except argparse.ArgumentError as error:
        hint = "; to resume the run in a folder, type --run FOLDER" if error.argument_name == "--resume" else ""
        text = error.message.replace("ignored explicit argument", "takes no value, got")
        raise UserError(f"{error.argument_name}: {text}{hint}") from None
    own = {name: getattr(known, name) for name in arguments}
    options = Options(args[0], known.config, None, [], known.trust, settings, description)
    refuse_options_of_others(options)
    for setting in settings:
        check_setting(setting)
    if isinstance(own.get("output"), Path) and own["output"].is_dir() and args[0] not in ("check", "shard", "export"):
        raise UserError(f"--output must be a file, got the folder {own['output']}")
    require(len(known.run) < 2 or args[0] in SEVERAL, f"{args[0]} takes one --run, got {len(known.run)}")
    options, *options.others = [use_run(options, path) for path in known.run] or [options]
    for each in (options, *options.others):
        for i, file in enumerate(each.config):
            check_yaml(Path(file), each.config[:i], options.command)
    restarts = [os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")]
    resumes = own.get("resume") == "auto" or restarts != ["0", "0"]
    if resumes and options.run is None and own.get("resume", "never") != "never":
        choose_run(options, job=None if own["resume"] else scheduler_job())
    return options, own


def use_run(options: Options, path: Path) -> Options:
    """Return the options with a run, whose config comes first; refuse links out of its folder."""
    config, links = str(Run.find(path).config), [each for each in path.rglob("*") if each.is_symlink()]
    out = [each for each in links if not options.trust and not each.resolve().is_relative_to(path.resolve())]
    require(not out, f"{[*out, ''][0]} is a link out of the run folder; if you trust it, add --trust")
    return replace(options, run=path, config=[config, *options.config])


def refuse_options_of_others(options: Options) -> None:
    typed = {setting.partition("=")[0] for setting in options.settings}
    for name in command_names():
        if belongs := typed & {f"--{option}" for option in describe(name)[1]}:
            raise UserError(f"{min(belongs)} is an option of {name}, not of {options.command}")


def scheduler_job() -> str:
    """Return the ID of this SLURM or torchrun job, which stays the same when the job is restarted."""
    return " ".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID")).strip()


def choose_run(options: Options, job: str | None) -> None:
    """Choose the newest run of the config's name, if any, and of a scheduler's job if one is given."""
    run = Run.newest(run_parent(options), job)
    if run is not None:
        options.run, options.config, options.resumed = run.path, [str(run.config)], True
        check_yaml(run.config)
        options.settings = without_list_additions(options.settings)


def run_parent(options: Options) -> Path:
    """Return the folder of all runs with the name set by these options."""
    root, name = "runs", run_name(options)
    for file in options.config:
        layer = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        root, name = (layer.get("trainer") or {}).get("default_root_dir") or root, layer.get("name", name)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--name", default=str(name))
    parser.add_argument("--trainer.default_root_dir", dest="root", default=root)
    typed, _ = parser.parse_known_args(options.settings)
    return Path(typed.root).expanduser() / typed.name


def run_name(options: Options) -> str:
    return Path(options.config[0]).stem if options.config else "run"


def without_list_additions(settings: list[str]) -> list[str]:
    """Drop ``--key+=`` list additions, which the run's config already has, and the settings that belong to them."""
    keys = [found[1] for setting in settings if (found := re.match(r"([^=]+)\+=", setting))]
    added = tuple(key + end for key in keys for end in "+.")
    return [setting for setting in settings if not setting.startswith(added)]
