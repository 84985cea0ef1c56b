"""Check config files: valid YAML and known keys. Does not import torch."""

import difflib
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import yaml

from src import UserError, require

SETTINGS: tuple[str, ...] = ("seed_everything", "trainer", "model", "data", "name", "test", "compile", "channels_last")
SETTINGS += ("best", "last", "non_finite")

LARGEST, DEEPEST = 100_000, 100  # values and levels of a config, aliases resolved


def did_you_mean(word: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """Return a hint with the closest known word, or nothing."""
    close = difflib.get_close_matches(word, [name for name in known if name != word], 1, cutoff)
    return f", did you mean {prefix}{close[0]}?" if close else ""


def check_yaml(file: Path) -> None:
    """Refuse a config that is missing, is not valid YAML, repeats a key or has an unknown section."""
    if not file.is_file():
        hint = did_you_mean(str(file), (str(f) for f in Path("configs").glob("**/*.yaml")))
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
        if name not in (*SETTINGS, "ckpt_path"):
            raise UserError(f"{where}: unknown setting {name}{did_you_mean(name, SETTINGS)}")
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
    deepest = max(accumulate((character in "[{") - (character in "]}") for character in setting))
    require(deepest <= DEEPEST, f"{setting[:40]}... is nested too deeply")


def children(node: yaml.Node | None) -> list[tuple[yaml.Node | None, yaml.Node]]:
    """Return the entries of a mapping or list as pairs of a key, None in a list, and a value."""
    if isinstance(node, yaml.SequenceNode):
        return [(None, value) for value in node.value]
    return node.value if isinstance(node, yaml.MappingNode) else []
