"""What is typed: the command, its configs and its run folder, checked before torch is loaded."""

import argparse
import difflib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import yaml

from src import UserError
from src.run import Run, job
from src.trust import check_trusted, named_files

COMMANDS = {
    "fit": "train, or go on with a run; then test the best checkpoint",
    "validate": "judge a checkpoint on the validation part",
    "test": "judge a checkpoint on the test set",
    "predict": "name the classes of images",
    "show": "draw training images, augmented, as a picture",
    "schedule": "draw the learning rate over the steps of a run",
}
SETTINGS = (
    "seed_everything",
    "trainer",
    "model",
    "data",
    "name",
    "test",
    "compile",
    "channels_last",
    "best",
    "last",
    "non_finite",
)
USAGE = """usage: python -m src.cli COMMAND [--config FILE] [--run DIR] [--key=value ...]

commands:
{commands}

  --config FILE      a YAML of configs/; a later one is layered over the former
  --run DIR          a run folder: its config and its best checkpoint; fit goes
                     on with the last one
  --resume auto      fit: go on with the newest run of that name, if any
  --trust            let configs name code outside src, scripts, torch, ...
  --images PATH ...  predict: image files and folders instead of the test set
  --output FILE      the CSV of predict, the PNG of show or schedule
  --key=value        any setting of the YAML, such as --trainer.max_epochs=3
  --print_config     print the whole config, defaults included, and stop
  COMMAND --help     every setting and what it means

examples:
  python -m src.cli fit --config configs/digits.yaml
  python -m src.cli fit --config configs/digits.yaml --trainer.max_epochs=3
  python -m src.cli predict --run runs/digits/version_0 --images my.png
"""


def read(args: list[str]) -> tuple[str, argparse.Namespace]:
    """Return the command and its options: ``config``, ``run``, ``images``, ``output`` and, all others, ``settings``.

    A run that a scheduler starts again, SLURM's or torchrun's, goes on as if ``--resume auto`` had been typed.
    """
    command = args[0]
    if command not in COMMANDS:
        raise UserError(f"unknown command {command!r}{nearest(command, COMMANDS)}; commands: {', '.join(COMMANDS)}")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--run", type=Path)
    again = any(os.environ.get(name, "0") != "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))
    parser.add_argument("--resume", choices=("auto", "never"))
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--images", type=Path, nargs="+")
    parser.add_argument("--output", type=Path)
    try:
        options, settings = parser.parse_known_args(args[1:])
    except argparse.ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}") from None
    options.settings, options.resumed = settings, False
    if options.images and command != "predict":
        raise UserError(f"--images goes with predict, not with {command}")
    if options.output and command not in ("predict", "show", "schedule"):
        raise UserError(f"--output goes with predict, show and schedule, not with {command}")
    if options.output and options.output.is_dir():
        raise UserError(f"--output must be a file, got the folder {options.output}")
    for file in options.config:
        check_yaml(Path(file))
    if options.run is not None:
        options.config.insert(0, str(Run.find(options.run).config))
        check_yaml(Path(options.config[0]))
    elif command == "fit" and (options.resume == "auto" or (again and options.resume is None)):
        run = Run.newest(run_parent(options), None if options.resume else job())
        if run is not None:
            options.run, options.config, options.resumed = run.path, [str(run.config)], True
            options.settings = without_additions(settings)
    if not options.trust:
        for file in options.config:
            check_trusted(Path(file), " ".join(settings) if options.resume == "auto" or again else "")
        for value in (setting.partition("=")[2] for setting in settings):
            for file in named_files(value, Path()):
                with suppress(UnicodeDecodeError, yaml.YAMLError):
                    check_trusted(file)
    return command, options


def without_additions(settings: list[str]) -> list[str]:
    """Return settings without those that add to a list, ``--key+=``, and what is said of the added."""
    added: list[str] = []
    kept: list[str] = []
    for setting in settings:
        key, plus, _ = setting.partition("+=")
        if plus and "=" not in key:
            added.append(f"{key}.")
        elif not setting.startswith(tuple(added)):
            kept.append(setting)
    return kept


def run_parent(options: argparse.Namespace) -> Path:
    """Return the folder of the runs that have these settings' name."""
    root, name = "runs", Path(options.config[0]).stem if options.config else "run"
    for layer in (yaml.safe_load(Path(file).read_text(encoding="utf-8")) for file in options.config):
        root, name = (layer.get("trainer") or {}).get("default_root_dir") or root, layer.get("name", name)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--name", default=str(name))
    parser.add_argument("--trainer.default_root_dir", dest="root", default=root)
    typed = parser.parse_known_args(options.settings)[0]
    return Path(typed.root) / typed.name


def nearest(word: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    close = difflib.get_close_matches(word, [name for name in known if name != word], 1, cutoff)
    return f", did you mean {prefix}{close[0]}?" if close else ""


def check_yaml(file: Path) -> None:
    """Refuse a config that is missing, is no YAML, or names a key twice.

    Raises:
        UserError: with the line, where there is one.
    """
    if not file.is_file():
        here = nearest(str(file), (str(f) for f in Path("configs").glob("**/*.yaml")))
        raise UserError(f"config {file} does not exist{here}")
    try:
        tree = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except UnicodeDecodeError:
        raise UserError(f"config {file} is not text in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"config {file}{where} is not valid YAML: {reason}") from None
    if not isinstance(tree, yaml.MappingNode):
        raise UserError(f"config {file} must hold settings, 'key: value', got {'nothing' if tree is None else tree.id}")
    try:
        check_duplicates(file, tree)
    except RecursionError:
        raise UserError(f"config {file} has an alias that holds itself") from None
    for key, value in tree.value:
        line = key.start_mark.line + 1
        if key.value not in (*SETTINGS, "ckpt_path"):
            raise UserError(f"config {file}, line {line}: unknown setting {key.value}{nearest(key.value, SETTINGS)}")
        if key.value in ("trainer", "best", "last") and not isinstance(value, yaml.MappingNode):
            got = "nothing" if not value.value else value.value
            raise UserError(f"config {file}, line {line}: {key.value} must hold settings, 'key: value', got {got}")
        if key.value == "name" and not value.value:
            raise UserError(f"config {file}, line {line}: name must be a word, got nothing")


def check_duplicates(file: Path, node: yaml.Node) -> None:
    if ":python/" in node.tag:
        raise UserError(f"config {file}, line {node.start_mark.line + 1}: a tag may not name code, got {node.tag}")
    lines: dict[str, int] = {}
    for child in node.value if isinstance(node, yaml.CollectionNode) else []:
        key, value = child if isinstance(child, tuple) else (None, child)
        if key is not None:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"config {file}, line {line}: a key must be a word, is a {key.id}")
            if key.value in lines:
                raise UserError(
                    f"config {file}, line {line}: key {key.value!r} stands in line {lines[key.value]} already"
                )
            lines[key.value] = line
        check_duplicates(file, value)
