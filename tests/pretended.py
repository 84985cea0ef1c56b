"""Run commands as if on another platform: ``python tests/pretended.py KIND COMMANDS``, the latter as JSON.

``windows`` and ``macos``: src sees only the modules, functions and names that Python has there, files that are open or
mapped cannot be replaced or deleted on Windows, and processes are started by spawn. ``spawn``: only the last.
"""

import builtins
import ctypes
import errno
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

GONE = {  # from the modules of the standard library
    "windows": {
        "os": "chown fchmod fork forkpty getgid getloadavg getpgid getsid getuid geteuid killpg mkfifo posix_fallocate "
        "posix_spawn pread preadv pwrite sched_getaffinity setpgid setsid statvfs sysconf uname wait O_DIRECTORY "
        "O_NOFOLLOW O_NONBLOCK",
        "signal": "SIGHUP SIGUSR1 SIGUSR2 SIGKILL SIGCHLD SIGPIPE SIG_BLOCK SIG_UNBLOCK pthread_sigmask pthread_kill "
        "sigwait sigwaitinfo alarm setitimer",
        "modules": "fcntl grp posix pty pwd readline resource termios tty",
    },
    "macos": {
        "os": "posix_fallocate sched_getaffinity",
        "signal": "sigwaitinfo sigtimedwait",
        "modules": "msvcrt",
    },
    "spawn": {"os": "", "signal": "", "modules": ""},
}
SET: dict[str, dict[str, Any]] = {
    "windows": {"os.name": "nt", "sys.platform": "win32", "signal.SIGBREAK": signal.SIGUSR2},
    "macos": {"sys.platform": "darwin"},
    "spawn": {},
}


class Seen(ModuleType):
    """A module as src sees it."""

    def __init__(self, module: ModuleType, gone: set[str], changed: dict[str, Any]) -> None:
        super().__init__(module.__name__)
        vars(self).update(changed)
        self.original, self.gone = module, gone

    def __getattr__(self, name: str) -> Any:
        if name in self.gone:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self.original, name)


def open_files() -> set[str]:
    """Return the files that this process has open or mapped."""
    found = {os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd") if is_open(each)}  # noqa: PTH115, PTH208
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return found | {line.split(maxsplit=5)[5] for line in mapped if line.count("/")}


def is_open(descriptor: str) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").exists()


def refuse_open(path: Any, below: bool = False) -> None:
    """Refuse a file that is open, or a folder with an open file ``below`` it."""
    real = os.path.realpath(path)
    if any(each == real or (below and each.startswith(f"{real}/")) for each in open_files()):
        raise PermissionError(errno.EACCES, "The process cannot access the file because it is in use", str(path))


def rename(original: Callable[..., None], over: bool) -> Callable[..., None]:
    def renamed(old: Any, new: Any, **settings: Any) -> None:
        refuse_open(old, below=True)
        if Path(new).is_dir():
            raise PermissionError(errno.EACCES, "Access is denied", str(new))
        if Path(new).exists():
            if not over:
                raise FileExistsError(errno.EEXIST, "The file exists", str(new))
            refuse_open(new)
        original(old, new, **settings)

    return renamed


def locking(descriptor: int, mode: int, size: int) -> None:  # noqa: ARG001
    """``msvcrt.locking``, whose locks belong to a descriptor, as those of flock do."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) if mode else fcntl.flock(descriptor, fcntl.LOCK_UN)


def guard_files() -> None:
    """Let the functions of os behave as on Windows, also for libraries."""
    unlink, open_file, truncate = os.unlink, os.open, os.truncate

    def delete(path: Any, **settings: Any) -> None:
        if settings.get("dir_fd") is None:
            refuse_open(path)
        unlink(path, **settings)

    def opened(path: Any, *args: Any, **settings: Any) -> int:
        if Path(path).is_dir() and sys._getframe(1).f_globals.get("__name__", "").startswith("src"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *args, **settings)

    def cut(path: Any, size: int) -> None:
        refuse_open(path)
        truncate(path, size)

    os.unlink = os.remove = delete
    os.open, os.truncate = opened, cut
    os.replace, os.rename = rename(os.replace, over=True), rename(os.rename, over=False)


def pretend(kind: str) -> None:
    """Change what src imports from now on, and how processes are started."""
    gone, changed = GONE[kind], SET[kind]
    seen: dict[str, ModuleType] = {}
    for module in (os, signal, sys, ctypes):
        name = module.__name__
        own = {key.split(".")[1]: value for key, value in changed.items() if key.startswith(f"{name}.")}
        seen[name] = Seen(module, set(gone.get(name, "").split()), own)
    if kind == "windows":
        msvcrt: Any = ModuleType("msvcrt")
        msvcrt.LK_UNLCK, msvcrt.LK_LOCK, msvcrt.LK_NBLCK, msvcrt.locking = 0, 1, 2, locking
        seen["msvcrt"] = msvcrt  # for src alone: subprocess would take this for Windows
        vars(seen["ctypes"])["CDLL"] = Library
        vars(seen["ctypes"])["windll"] = Windll()
        guard_files()
    original, absent = builtins.__import__, set(gone["modules"].split())

    def import_seen(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:  # noqa: A002
        ours = str((globals or {}).get("__name__")).split(".")[0] in ("src", "scripts")
        if ours and name in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return seen[name] if ours and name in seen else original(name, globals, locals, fromlist, level)

    builtins.__import__ = import_seen
    multiprocessing.set_start_method("spawn", force=True)


class Library:
    """``ctypes.CDLL``, which on Windows cannot open the program itself."""

    def __init__(self, name: str | None) -> None:
        if name is None:
            raise TypeError("argument of type 'NoneType' is not iterable")


class MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX: length, percent in use, bytes of memory, free ones, and those of the page file and addresses."""

    _fields_ = [
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((f"bytes{i}", ctypes.c_uint64) for i in range(7)),
    ]


class Windll:
    """The system's library of a machine of 8 GiB."""

    class kernel32:  # noqa: N801
        @staticmethod
        def GlobalMemoryStatusEx(pointer: Any) -> int:  # noqa: N802
            status = ctypes.cast(pointer, ctypes.POINTER(MemoryStatus)).contents
            if status.length != ctypes.sizeof(MemoryStatus):
                return 0
            status.load, status.bytes0, status.bytes1 = 50, 8 << 30, 4 << 30
            return 1


if __name__ in ("__main__", "__mp_main__"):  # the latter in processes that spawn starts
    pretend(sys.argv[1])

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    from src.cli import main

    for command in json.loads(sys.argv[2]):
        main(command, owns_process=True)
