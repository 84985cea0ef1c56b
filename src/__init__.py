"""A PyTorch Lightning project: data, nets, tasks, callbacks and the command line that joins them."""

import json
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary, finalize

TAKEN = (BlockingIOError, PermissionError)  # what ``lock`` raises if another holds the lock


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


class Held:
    """A file that stays open, and locked, until nobody refers to this object."""

    def __init__(self, file: Path) -> None:
        self.descriptor = os.open(file, os.O_CREAT | os.O_WRONLY)
        finalize(self, os.close, self.descriptor)


HELD: WeakValueDictionary[tuple[int, ...], Held] = WeakValueDictionary()


def hold(file: Path) -> Held | None:
    """Create and lock a file; return None if another process holds it, raise an OSError if it cannot be created.

    A process that calls it again gets the same object: lockf unlocks a file when the process first closes it.
    """
    if file.exists() and (known := HELD.get(identity(file))):
        return known
    held = Held(file)
    try:
        lock(held.descriptor, of_process=True)
    except TAKEN:
        return None
    except OSError:  # the file system has no locks
        pass
    HELD[identity(file)] = held
    return held


def identity(file: Path) -> tuple[int, ...]:
    stat = file.stat()
    return stat.st_dev, stat.st_ino, os.getpid()


def lock(descriptor: int, wait: bool = False, of_process: bool = False) -> None:
    """Lock an open file; raise an error of TAKEN if it is locked, unless ``wait``, or another OSError.

    Forked processes share the lock unless it is ``of_process``.
    """
    if sys.platform != "win32":
        import fcntl

        (fcntl.lockf if of_process else fcntl.flock)(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    import msvcrt

    while True:
        try:
            return msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # the first byte, which need not exist
        except PermissionError:
            if not wait:
                raise
            time.sleep(0.01)


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
