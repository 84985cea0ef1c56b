"""A PyTorch Lightning project: data, nets, tasks, callbacks and the command line that joins them."""

import json
import os
import re
import shlex
import time
from pathlib import Path
from typing import Any, Literal


class UserError(ValueError):
    """Invalid input from the user: the command line prints it in one line and exits with 2."""


def require(valid: object, message: str) -> None:
    """Raise a UserError unless the input is valid; the message says what is wrong, expected and given."""
    if not valid:
        raise UserError(message)


def compile_pattern(name: str, pattern: str) -> re.Pattern[str]:
    """Compile the regular expression of an argument; raise a UserError with its name if it is invalid."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{name} must be a regular expression, got {pattern!r} ({error})") from None


def read_json(file: Path, default: Any) -> Any:
    """Return the content of a file, or the default if it is missing, damaged or of another type."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return default
    return content if isinstance(content, type(default)) else default


def replace_file(part: Path, file: Path) -> None:
    """Rename a file or folder, over an existing file; on Windows wait up to 2 s for programs that have one open."""
    until = time.monotonic() + 2
    while True:
        try:
            part.replace(file)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > until:
                raise
        time.sleep(0.05)


def quote(word: str | Path) -> str:
    """Quote a word of a command, such as a path, that people paste into their shell: on Windows cmd or PowerShell."""
    text = str(word)
    if os.name != "nt":
        return shlex.quote(text)
    return text if re.fullmatch(r"[\w\\/:.=+-]+", text) else '"' + text.replace('"', '\\"') + '"'


def at_least_float32(tensor: Any) -> Any:
    """Return a tensor of logits in float32 if it is half, because a bfloat16 has three digits."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def load_run(
    path: str | Path, checkpoint: Literal["best", "last"] = "best", root: str | Path | None = None, trust: bool = False
) -> tuple[Any, Any]:
    """Return the trained task of a run folder and its data module; see ``src.config.load.load_run``."""
    from src.config.load import load_run as load  # here, because torch and Lightning take seconds to import

    return load(path, checkpoint, root, trust)
