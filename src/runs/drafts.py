"""Drafts: hidden folders for files that are published together. This module does not import torch."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from src import UserError, lock

LOCKS = os.name != "nt"  # Windows opens no folders


@contextmanager
def draft(parent: Path) -> Iterator[Path]:
    """Yield a hidden folder in a folder, and remove it at the end, as well as folders above it that are new and empty.

    Drafts that killed processes left are removed, too.
    """
    new = [each for each in (parent, *parent.parents) if not each.exists()]
    part = parent / f".new-{os.getpid()}-{secrets.token_hex(4)}"  # processes in containers share numbers
    held = None
    try:
        for left in parent.glob(".new-*") if LOCKS else ():
            remove_unless_locked(left)
        part.mkdir(parents=True)
        if LOCKS:
            held = os.open(part, os.O_RDONLY)
            with suppress(OSError):  # on a file system without locks
                lock(held)
        yield part
    except OSError as error:
        raise UserError(f"cannot write {parent}: {error.strerror}; choose another folder with --output") from None
    finally:
        if held is not None:
            os.close(held)
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # of one that is not empty
            for each in new:
                each.rmdir()


def remove_unless_locked(folder: Path) -> None:
    """Remove a draft whose process has ended; one that cannot be locked or removed stays."""
    with suppress(OSError):
        held = os.open(folder, os.O_RDONLY)
        try:
            lock(held)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(held)
