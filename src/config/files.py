"""Check config files: valid YAML, known keys, trusted code unless ``--trust`` is set. Does not import torch."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import yaml

from src import UserError, require

SETTINGS: tuple[str, ...] = ("seed_everything", "trainer", "model", "data", "name", "test", "compile", "channels_last")
SETTINGS += ("best", "last", "non_finite")
# importing a module runs it, so configs may name only these packages without --trust
TRUSTED = ("src", "scripts", "tests", "tools", "torch", "torchvision", "torchmetrics", "lightning", "kornia")


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
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"config {file}{where}: invalid YAML: {reason}") from None
    if not isinstance(tree, yaml.MappingNode):
        raise UserError(f"config {file} must hold settings, 'key: value', got {'nothing' if tree is None else tree.id}")
    try:
        check_keys(file, tree)
    except RecursionError:
        raise UserError(f"config {file} has an alias that contains itself") from None
    for key, value in tree.value:
        where, name = f"config {file}, line {key.start_mark.line + 1}", key.value
        if name not in (*SETTINGS, "ckpt_path"):
            raise UserError(f"{where}: unknown setting {name}{did_you_mean(name, SETTINGS)}")
        if name in ("trainer", "best", "last") and not isinstance(value, yaml.MappingNode):
            raise UserError(f"{where}: {name} must hold settings, 'key: value', got {value.value or 'nothing'}")
        if name == "name" and not value.value:
            raise UserError(f"{where}: name must be a word, got nothing")


def check_keys(file: Path, node: yaml.Node) -> None:
    """Refuse tags that name code, keys that are not scalars, and duplicate keys."""
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
        check_keys(file, value)


def check_trusted(file: Path, typed: str = "", seen: frozenset[Path] = frozenset()) -> None:
    """Refuse a config that names code of untrusted packages, directly or in a file that it names.

    Names in the text ``typed`` are trusted; ``seen`` are the files that are already being checked.
    """
    for line, value in scalars(yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)):
        if re.fullmatch(r"[^\W\d]\w*(\.\w+)+", value) and is_foreign(value) and value not in typed:
            what = f"config {file}, line {line + 1}: {value} is code outside {', '.join(TRUSTED)}"
            raise UserError(f"{what}; if you trust it, add --trust (load_run: trust=True)")
        for other in named_files(value, file.parent):  # jsonargparse may read it as a config too
            if other not in seen:
                with suppress(UnicodeDecodeError, yaml.YAMLError):
                    check_trusted(other, typed, seen | {file, other})


def needs_trust(file: Path) -> bool:
    try:
        check_trusted(file)
    except (UserError, OSError) as error:  # an OSError if the file is gone
        return isinstance(error, UserError)
    return False


def named_files(value: str, folder: Path) -> list[Path]:
    """Return the files that jsonargparse may read for a value, relative to the working directory or to a folder."""
    if not value or len(value) > 4000 or "\n" in value:
        return []
    value = re.sub("^file:///?", "/", os.path.expanduser(value))  # noqa: PTH111  # as jsonargparse does
    return [path for path in dict.fromkeys((Path(value), folder / value)) if path.is_file()]


def scalars(node: yaml.Node | None, line: int = 0) -> Iterator[tuple[int, str]]:
    """Yield line and text of every value in a tree, except keys and the value of ``name``.

    A value that is YAML itself, such as ``"[a.b.C]"``, also yields its own values, because jsonargparse parses it.
    """
    if isinstance(node, yaml.ScalarNode):
        yield line + node.start_mark.line, node.value
        with suppress(yaml.YAMLError):
            inner = yaml.compose(node.value, yaml.SafeLoader)
            if not isinstance(inner, yaml.ScalarNode) or inner.value != node.value:
                yield from scalars(inner, line + node.start_mark.line)
    for key, value in children(node):
        if key is None or key.value != "name":
            yield from scalars(value, line)


def children(node: yaml.Node | None) -> list[tuple[yaml.Node | None, yaml.Node]]:
    """Return the entries of a mapping or list as pairs of a key, None in a list, and a value."""
    if isinstance(node, yaml.SequenceNode):
        return [(None, value) for value in node.value]
    return node.value if isinstance(node, yaml.MappingNode) else []


def is_foreign(path: str) -> bool:
    """Tell whether a dotted path could be imported from an untrusted package, without importing it.

    A trusted package's own imports count as untrusted too, as in ``torch.os.system``.
    """
    top, *names = path.split(".")
    if (spec := find_spec(top)) is None:
        return False
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    if top not in TRUSTED or not folders:
        return spec.origin is not None or any(has_module(folder, names[0]) for folder in folders)
    folder = folders[0]
    while names and has_module(folder, names[0]):
        folder /= names.pop(0)
    return len(names) > 1 and names[0].lstrip("_")[:1].islower()  # not a name in a module file of the package


def has_module(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() or (folder / f"{name}.py").is_file()
