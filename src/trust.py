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
    for node in scalars(yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)):
        if re.fullmatch(r"[^\W\d]\w*(\.\w+)+", node.value) and foreign(node.value) and node.value not in typed:
            raise UserError(
                f"config {file}, line {node.start_mark.line + 1}: {node.value} is code outside "
                f"{', '.join(PACKAGES)}; if you know what it does, type --trust"
            )
        for other in named_files(node.value, file.parent):  # which may be taken for a config too
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


def scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Yield every value of a tree; of mappings not the keys, nor the value of ``name``."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    for child in node.value if isinstance(node, yaml.CollectionNode) else []:
        if isinstance(child, yaml.Node):
            yield from scalars(child)
        elif child[0].value != "name":
            yield from scalars(child[1])


def foreign(path: str) -> bool:
    """Tell whether a dotted path could be imported, from another package; nothing is imported here."""
    top, second = path.split(".")[:2]
    if top in PACKAGES or (spec := find_spec(top)) is None:
        return False
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    inside = any((folder / second).is_dir() or (folder / f"{second}.py").is_file() for folder in folders)
    return spec.origin is not None or inside
