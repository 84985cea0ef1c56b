"""One line for each error in a command line or config."""

import errno
import inspect
import linecache
import os
import re
import sys
import time
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from src import UserError

DEPENDENCIES = ("yaml", "torch", "torchvision", "lightning", "jsonargparse", "torchmetrics", "numpy")
PATHS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST)
OUT_OF_MEMORY = "out of memory|DefaultCPUAllocator"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


def as_user_error(error: Exception) -> UserError | None:
    """Convert an exception caused by bad input into a UserError; return None for a bug.

    Bad input is whatever this project, Lightning or a constructor rejects; running out of memory or disk counts too.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name in DEPENDENCIES:
        hint = "run make train once, then source .venv/bin/activate (on Windows see README.md)"
        return UserError(f"{error.name} is not installed here: {hint}")
    if text := explain_resources(error):
        return UserError(text)
    if "lightning" not in sys.modules:  # serve runs without it, and so do the checks of the command line
        return None
    lightning = sys.modules.get("lightning.pytorch.utilities.exceptions")
    if lightning and isinstance(error, lightning.MisconfigurationException):
        return UserError(" ".join(str(error).split()))
    frames = list(walk_tb(error.__traceback__))
    if frames and is_refusal(*frames[-1]):
        return UserError(named_argument(error) + " ".join(str(error).split()))
    if is_of_checkpoint([frame.f_code.co_filename for frame, _ in frames]):
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return UserError(f"the checkpoint does not match this run ({cause}): start a new run")
    link: BaseException | None = error
    while isinstance(link, ValueError) or (isinstance(link, RuntimeError) and link is not error):
        # jsonargparse wraps the error of a constructor in its own errors
        if isinstance(link, UserError):
            return link
        if missing := re.search(r"Requirement '([\w-]+)\S* not met", str(link)):
            return UserError(f"{missing[1]} is not installed: run make extras")
        if raised_by_constructor(link):
            return UserError(named_argument(link) + " ".join(str(link).split()))
        link = link.__cause__ or link.__context__
    return None


def explain_resources(error: Exception) -> str:
    """Return what to do about an error of memory, disk, files or processes; nothing for any other error."""
    number, name, text = getattr(error, "errno", 0), getattr(error, "filename", None), ""
    shared = any("multiprocessing/reductions" in frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__))
    if (shared and isinstance(error, OSError | EOFError)) or re.search(r"DataLoader worker \(pid", str(error)):
        reason = "a process that reads data was killed, usually because memory ran out"
        text = f"{reason}: use a smaller --data.num_workers"
    elif number in (errno.EMFILE, errno.ENFILE) or "items of ancdata" in str(error):
        text = "too many open files: raise the limit with ulimit -n, or set --data.num_workers=0"
    elif isinstance(error, MemoryError) or re.search(OUT_OF_MEMORY, str(error)):
        presets = "configs/presets/micro_batches.yaml, bf16.yaml or checkpointing.yaml of the same folder"
        text = f"out of memory: use a smaller --data.batch_size, or add --config {presets}"
    elif isinstance(error, OSError) and number in DISK:
        text = f"cannot write {name or 'a file'}: {error.strerror}"
    elif isinstance(error, OSError) and number in PATHS and name:
        return f"cannot use {str(name)[:200]}: {error.strerror}"
    return f"{text}. Existing checkpoints are intact." if text else ""


def is_of_checkpoint(files: list[str]) -> bool:
    """Tell from the files of a traceback whether this project, Lightning or torch failed to restore a checkpoint."""
    import lightning
    import torch

    start = next((i for i, file in enumerate(files) if file.endswith("checkpoint_connector.py")), len(files))
    names = (
        "engine",
        "runs",
        "tasks/metrics.py",
        "tasks/base.py",
        "tasks/classifier.py",
        "data/base.py",
        "data/folder.py",
    )
    ours = [Path(__file__).parents[1] / name for name in names]
    known = [Path(lightning.__path__[0]), Path(torch.__path__[0]), *ours]
    return start < len(files) and all(any(map(Path(file).is_relative_to, known)) for file in files[start:])


def is_refusal(frame: FrameType, line: int) -> bool:
    """Tell whether a line is a ``raise`` of Lightning or of torch's optimizers, which reject their arguments so."""
    import lightning
    import torch

    places = [Path(lightning.__path__[0]), Path(torch.__path__[0]) / "optim"]
    file = frame.f_code.co_filename
    if frame.f_code.co_name in ("__getattr__", "__getitem__"):  # a bug of a module, such as self.hparams.typo
        return False
    return any(map(Path(file).is_relative_to, places)) and linecache.getline(file, line).strip().startswith("raise ")


def constructor_error(error: Exception) -> UserError:
    """Return a constructor's error, which jsonargparse wraps in long ones, as a UserError that says where it is."""
    if (known := as_user_error(error)) is not None:
        return known
    link: BaseException = error
    while (last := [*walk_tb(link.__traceback__)][-1])[0].f_code.co_name.startswith("raise_") and link.__cause__:
        link = link.__cause__  # of jsonargparse's own error
    frame, line = last
    built = [frame.f_locals["self"] for frame, _ in walk_tb(link.__traceback__) if "self" in frame.f_locals]
    name = f"{type(built[-1]).__name__}: " if built and "jsonargparse" not in type(built[-1]).__module__ else ""
    place = "" if "jsonargparse" in frame.f_code.co_filename else f" ({frame.f_code.co_filename}, line {line})"
    return UserError(f"{name}{type(link).__name__}: {' '.join(str(link).split())[:300]}{place}")


def named_argument(error: BaseException) -> str:
    """Return ``Class.argument: `` for the argument of a constructor whose value its message gives without a name."""
    frame = [frame for frame, _ in walk_tb(error.__traceback__)][-1]
    if frame.f_code.co_name != "__init__" or "self" not in frame.f_locals:
        return ""
    owner, words = frame.f_locals["self"], str(error).split()
    names = [name for name in inspect.signature(type(owner)).parameters if name in frame.f_locals]
    if any(re.search(rf"\b{name}\b", str(error)) for name in names):
        return ""
    given = [name for name in names if str(frame.f_locals[name]) in words]
    return f"{type(owner).__name__}{'.' + given[0] if len(given) == 1 else ''}: "


def exit_code(error: Exception) -> int | None:
    """Return the exit code of another process of the run if its end caused this error; it has printed the cause."""
    from src.engine.launched import code_of_lost_process

    return code_of_lost_process(error)


def let_the_first_process_print() -> None:
    """Wait in any other process of a run, because the first ends all of them when it has the same error."""
    rank = next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), "0")
    if rank != "0":
        time.sleep(10)


def raised_by_constructor(error: BaseException) -> bool:
    """Tell whether an error was raised by a constructor (torch's own if a RuntimeError), or anywhere in Lightning."""
    import lightning
    import torch

    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    if not frames:
        return False
    code = frames[-1].f_code
    in_torch, in_lightning = (Path(code.co_filename).is_relative_to(Path(m.__path__[0])) for m in (torch, lightning))
    return in_lightning or (code.co_name == "__init__" and (in_torch or not isinstance(error, RuntimeError)))
