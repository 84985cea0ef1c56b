"""Command line: ``python -m src.cli COMMAND [--config FILE ...] [--run DIR] [--key=value ...]``."""

import atexit
import ctypes
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from typing import Any

try:
    from src.config.arguments import read, usage
    from src.config.errors import as_user_error, exit_code, let_the_first_process_print
    from src.runs.summary import echo
except ModuleNotFoundError as error:  # yaml comes with the environment
    hint = "run make train once, then source .venv/bin/activate (on Windows see README.md)"
    sys.exit(f"error: {error.name} is not installed here: {hint}")

NOISE = (  # library warnings that users cannot act on
    r".*LeafSpec.*is deprecated",
    r"The number of training batches .* is smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",
    r"Experiment logs directory .* exists and is not empty",
    r"No (positive|negative) samples in targets",
    r"You requested to overfit but enabled .* shuffling",
    r"torch\.distributed\.nn\.functional\.all_gather is deprecated",
    r"The given buffer is not writable",  # torch 2.11, of the .pt2 files that it reads
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
)


def main(args: list[str] | None = None, owns_process: bool = False) -> Any:
    """Run one command and return its Experiment, if any; a UserError prints one line and exits with code 2.

    A command that owns the process may change its signal handlers, warnings, logging and garbage collection.
    """
    args = sys.argv[1:] if args is None else args
    args = args[1:] if args[:1] == ["--"] else args  # torchrun -m src.cli -- fit --run DIR
    try:
        if not args or args[0] in ("-h", "--help"):
            echo(usage())
            return None
        options, own = read(args)
        options.owns_process = owns_process
        with fast_import() if owns_process else nullcontext():
            command = import_module(f"src.commands.{options.command}")
        with quiet() if owns_process else nullcontext():
            return command.run(options, **own)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            sys.exit(130)  # Lightning turns an interrupt into exit code 1
        raise
    except Exception as error:
        if (code := exit_code(error)) is not None:
            sys.exit(code)
        if (user_error := as_user_error(error)) is None:
            raise
        let_the_first_process_print()
        text = str(user_error)
        text = text if len(text) < 480 else f"{text[:240]} ... {text[-220:]}"
        sys.stderr.write(f"error: {text}\n")  # one write: several processes may print it
        sys.exit(2)


@contextmanager
def quiet() -> Iterator[None]:
    """Print each warning in one line, hide the warnings in NOISE, and disable log messages."""
    disabled = logging.root.manager.disable
    logging.getLogger("torch.utils.cpp_extension").disabled = True  # says that there is no GPU
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning|jsonargparse")
        warnings.showwarning = lambda message, *args, **kwargs: echo(f"warning: {message}", sys.stderr)  # noqa: ARG005
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(disabled)
            logging.getLogger("torch.utils.cpp_extension").disabled = False


@contextmanager
def fast_import() -> Iterator[None]:
    """Pause the garbage collector during imports, which saves a sixth of the start-up time; freeze the new objects.

    During imports, Ctrl-C ends the process at once, because an interrupted import may raise any error.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():  # only once: frozen garbage is never freed
            gc.freeze()
            atexit.register(gc.unfreeze)  # otherwise libraries report leaks at exit
    finally:
        gc.enable()
        if handler is signal.default_int_handler:
            signal.signal(signal.SIGINT, handler)


def keep_freed_memory() -> None:
    """Stop malloc from returning freed memory to the kernel, and use huge pages; call it before torch is imported.

    Otherwise the kernel maps each large tensor of each step on the CPU again, page by page. Only glibc can do it.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's setting for transparent huge pages
    m_trim_threshold, m_mmap_max = -1, -4  # mallopt(3)
    with suppress(AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def open_streams() -> None:
    """Replace a closed stdout or stderr."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


if __name__ == "__main__":
    open_streams()
    keep_freed_memory()
    main(owns_process=True)
