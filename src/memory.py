"""Memory of the process: what a training step frees is kept for the next one, and modules are no garbage."""

import atexit
import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3)


def keep_freed() -> None:
    """Let the C library keep freed memory, in large pages; call it before torch is imported.

    Otherwise each large tensor of a step on the CPU is asked of the kernel anew, page by page. On a system other than
    Linux with glibc nothing changes.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's: transparent huge pages
    with suppress(AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage while modules are imported, nor later among them: that takes a sixth of the start."""
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():  # once: what is garbage by then is never freed
            gc.freeze()
            atexit.register(gc.unfreeze)  # or libraries complain of leaks
    finally:
        gc.enable()
