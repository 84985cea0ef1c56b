"""Claim: the right to work on a folder, which ends with the process that holds it. Does not import torch."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from src import TAKEN, lock

LEASE = 60.0  # seconds after which an untouched lease is over, on file systems without locks


class Claim:
    """A lock of a file, or where the file system has no locks, a file that is touched as long as it is held."""

    def __init__(self, file: Path) -> None:
        self.file, self.held = file.absolute(), -1
        self.over = threading.Event()

    def take(self) -> bool:
        """Claim the file unless somebody holds it."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(self.file, os.O_CREAT | os.O_RDWR)
        try:
            lock(held)
        except OSError as error:
            os.close(held)
            return not isinstance(error, TAKEN) and self.lease()
        self.held = held
        return True

    def lease(self) -> bool:
        lease = self.file.with_suffix(".lease")
        with suppress(OSError):
            if time.time() - lease.stat().st_mtime > LEASE:
                lease.replace(old := lease.with_suffix(f".{uuid4().hex}"))  # only one of several succeeds
                old.unlink()
        try:
            os.close(os.open(lease, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        self.over.clear()
        self.thread = threading.Thread(target=self.renew, args=(lease,), daemon=True)
        self.thread.start()
        return True

    def renew(self, lease: Path) -> None:
        while not self.over.wait(LEASE / 6):
            with suppress(OSError):
                os.utime(lease)
        lease.unlink(missing_ok=True)

    def release(self) -> None:
        self.over.set()
        if self.held >= 0:
            os.close(self.held)
            self.held = -1
