"""Locks of files, which end with the process that holds them. Does not import torch."""

import os
import sys
import time
from pathlib import Path
from weakref import WeakValueDictionary, finalize

TAKEN = (BlockingIOError, PermissionError)  # what ``lock`` raises if another holds the lock


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
