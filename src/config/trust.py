"""Which code a config may name: importing a module runs it, so one from elsewhere needs ``--trust``."""

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import yaml

from src import UserError

PACKAGES = ("src", "scripts", "torch", "torchvision", "torchmetrics", "lightning")


def check_trusted(file: Path, typed: str = "", seen: frozenset[Path] = frozenset()) -> None:
    """Refuse a config, or a file that it names, that names a module of another package.

    Args:
        file: the config.
        typed: names that stand in it are trusted.
        seen: the files that led here.

    Raises:
        UserError: with the line and the name.
    """
    for line, value in scalars(yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)):
        if re.fullmatch(r"[^\W\d]\w*(\.\w+)+", value) and foreign(value) and value not in typed:
            raise UserError(
                f"config {file}, line {line + 1}: {value} is code outside "
                f"{', '.join(PACKAGES)}; if you know what it does, type --trust"
            )
        for other in named_files(value, file.parent):  # which may be taken for a config too
            if other not in seen:
                with suppress(UnicodeDecodeError, yaml.YAMLError):
                    check_trusted(other, typed, seen | {file, other})


def named_files(value: str, folder: Path) -> list[Path]:
    """Return the files that a value may name, as seen from here or from a folder."""
    if not value or len(value) > 4000 or "\n" in value:
        return []
    return [path for path in dict.fromkeys((Path(value), folder / value)) if path.is_file()]


def is_foreign(file: Path) -> bool:
    """Tell whether a config needs ``--trust``."""
    try:
        check_trusted(file)
    except UserError:
        return True
    except OSError:  # it is gone
        pass
    return False


def scalars(node: yaml.Node | None, line: int = 0) -> Iterator[tuple[int, str]]:
    """Yield line and text of every value of a tree; of mappings not the keys, nor the value of ``name``.

    A text that is YAML in turn, as ``"[a.b.C]"``, will be read as such: its values are yielded too.
    """
    if isinstance(node, yaml.ScalarNode):
        yield line + node.start_mark.line, node.value
        with suppress(yaml.YAMLError):
            inner = yaml.compose(node.value, yaml.SafeLoader)
            if not isinstance(inner, yaml.ScalarNode) or inner.value != node.value:
                yield from scalars(inner, line + node.start_mark.line)
    for child in node.value if isinstance(node, yaml.CollectionNode) else []:
        if isinstance(child, yaml.Node):
            yield from scalars(child, line)
        elif child[0].value != "name":
            yield from scalars(child[1], line)


def foreign(path: str) -> bool:
    """Tell whether a dotted path could be imported, from another package; nothing is imported here.

    So can what a package's modules have imported themselves, as in ``torch.os.system``.
    """
    top, *names = path.split(".")
    if (spec := find_spec(top)) is None:
        return False
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    if top not in PACKAGES or not folders:
        return spec.origin is not None or any(has_module(folder, names[0]) for folder in folders)
    folder = folders[0]
    while names and has_module(folder, names[0]):
        folder /= names.pop(0)
    return len(names) > 1 and names[0].lstrip("_")[:1].islower()  # of a module that is no file of the package


def has_module(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() or (folder / f"{name}.py").is_file()
