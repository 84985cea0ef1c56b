"""Files of a run: written atomically, backed up, read even if damaged. This module does not import torch."""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from src import UserError


class Dumper(yaml.SafeDumper):
    """Quote also the strings that jsonargparse reads as numbers, such as 1e3."""


NUMBER = re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+")
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, [*"-+0123456789"])


def to_yaml(settings: dict[str, Any]) -> str:
    return yaml.dump(settings, Dumper=Dumper, sort_keys=False)


def free_name(file: Path) -> Path:
    """Return results_0.json, results_1.json, ... for results.json, whichever comes after those that exist."""
    found = [re.fullmatch(r".*_(\d+)", each.stem) for each in file.parent.glob(f"{file.stem}_*{file.suffix}")]
    return file.with_stem(f"{file.stem}_{1 + max((int(each[1]) for each in found if each), default=-1)}")


def back_up(file: Path) -> Path:
    """Rename an existing file to its ``free_name``; return the name, which is now free."""
    if file.is_file():
        file.replace(free_name(file))
    return file


def read_json(file: Path, default: Any) -> Any:
    """Return the content of a file, or the default if it is missing, damaged or of another type."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return default
    return content if isinstance(content, type(default)) else default


def write_atomically(file: Path, content: str | bytes) -> None:
    part = file.with_suffix(".part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(file)
    except OSError as error:  # such as a deleted folder
        raise UserError(f"cannot write to the run folder {file.parent.absolute()}: {error.strerror}") from None


def digest(file: Path) -> str | None:
    return sha256(file.read_bytes()).hexdigest() if file.is_file() else None
