"""Exported versions of a model, in a folder that ``serve`` watches. This module does not import torch."""

import json
import os
import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src import UserError, require
from src.runs.drafts import draft
from src.runs.folder import digest, write_atomically

FORMAT = 1
KINDS = ("classes", "labels", "numbers", "masks", "embeddings", "images", "values")  # of what a model returns
KEYS = {"format", "name", "task", "kind", "file", "input", "outputs", "classes"}
SUMS, REJECTED = "SHA256SUMS", "REJECTED"


def import_onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry off: it would send events to Microsoft and keep an ID in ~/.cache."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is loaded
    import onnxruntime

    return onnxruntime


@dataclass
class Version:
    """One exported version: ``model.onnx``, what ``model.json`` says about it, and a reference of its test pictures."""

    path: Path
    info: dict[str, Any]  # the content of model.json

    @property
    def number(self) -> int:
        return int(self.path.name)

    @property
    def model(self) -> Path:
        return self.path / self.info["file"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input image, (C, H, W)."""
        return tuple(self.info["input"]["shape"])

    @cached_property
    def reference(self) -> dict[str, Any]:
        return json.loads((self.path / "reference.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    @classmethod
    def load(cls, path: Path) -> "Version":
        """Return the version in a folder; a UserError unless each of its files is the one that was exported."""
        require((path / SUMS).is_file(), f"{path} is no exported version: it has no {SUMS}")
        lines = (path / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
        sums = {name: each for each, name in (re.split(r"  ", line, maxsplit=1) for line in lines if "  " in line)}
        for name in ("model.json", *sums):
            file, remedy = path / name, "export it again"
            require(name in sums and "/" not in name, f"{file} is not listed in {path / SUMS}: {remedy}")
            require(file.is_file() and not file.is_symlink(), f"{file} is missing: {remedy}")
            require(digest(file) == sums[name], f"{file} is damaged: its SHA-256 is not that of {SUMS}; {remedy}")
        wrong = "model.json"
        try:
            info = json.loads((path / "model.json").read_text(encoding="utf-8"))
            valid = info["format"] == FORMAT and info.keys() >= KEYS and info["kind"] in KINDS and info["file"] in sums
            version = cls(path, info)
            if valid and "reference.json" in sums:
                wrong = "reference.json"
                valid = "traits" in version.reference
        except (ValueError, TypeError, LookupError, AttributeError):
            valid = False
        require(valid, f"{path / wrong} is not of this version of the template: export it again")
        return version


class Models:
    """``models/<name>``: a folder for each version, ``1``, ``2``, ..., and CURRENT, the number of the one to serve.

    PREVIOUS lists the versions that were current before; REJECTED, in a folder, says why its version is withdrawn.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def find(cls, path: Path) -> "Models":
        """Return an existing folder of versions; refuse any other."""
        models = cls(path)
        if not models.numbers():
            near = [path.parent, *sorted(file.parent for file in path.glob("*/CURRENT"))]
            hints = [f"you may mean {each}" for each in near if cls(each).numbers()]
            hint = [*hints, "make one with python -m src.cli export --run DIR"][0]
            raise UserError(f"{path} is no folder of exported versions: {hint}")
        return models

    def numbers(self) -> list[int]:
        """Return the numbers of all complete versions, in their order."""
        found = self.path.iterdir() if self.path.is_dir() else ()
        return sorted(int(each.name) for each in found if each.name.isdecimal() and (each / SUMS).is_file())

    def load(self, number: int) -> Version:
        self.check(number)
        return Version.load(self.path / str(number))

    def check(self, number: int) -> None:
        known = self.numbers()
        require(number in known, f"{self.path} has no version {number}, only {', '.join(map(str, known))}")

    @property
    def current(self) -> int | None:
        """The number of the version to serve, None before one is chosen or if CURRENT is damaged."""
        with suppress(OSError, ValueError):
            return int((self.path / "CURRENT").read_text(encoding="utf-8"))
        return None

    @property
    def previous(self) -> list[int]:
        """The versions that were current before, the last one last, but for those that are rejected or gone."""
        found: list[str] = []
        with suppress(OSError, ValueError):
            found = (self.path / "PREVIOUS").read_text(encoding="utf-8").split()
        usable = {number for number in self.numbers() if self.rejection(number) is None} - {self.current}
        return [int(each) for each in found if each.isdecimal() and int(each) in usable]

    @property
    def candidate(self) -> int | None:
        """The newest version after the current one, unless it was rejected; None if there is none."""
        newer = [number for number in self.numbers() if number > (self.current or 0)]
        return newer[-1] if newer and self.rejection(newer[-1]) is None else None

    def rejection(self, number: int) -> str | None:
        """Return why a version was rejected, None if it was not."""
        file = self.path / str(number) / REJECTED
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None

    def check_current(self) -> int:
        """Return the number of the version to serve; refuse a folder that does not tell it."""
        file, how = self.path / "CURRENT", f"choose one with python -m src.cli serve {self.path} --use N"
        require(file.exists(), f"{self.path} has no CURRENT version: {how}")
        require(self.current, f"{file} is damaged, it must hold the number of a version: {how}")
        return self.current or 0

    def use(self, number: int) -> Version:
        """Make a version the current one, after its files are checked; it is no longer rejected."""
        version, current = self.load(number), self.current
        if current and current != number:
            self.write_previous([*[each for each in self.previous if each != number], current])
        write_atomically(self.path / "CURRENT", f"{number}\n")
        (version.path / REJECTED).unlink(missing_ok=True)
        return version

    def roll_back(self) -> Version:
        """Reject the current version; the one that was current before is current again."""
        current, previous = self.check_current(), self.previous
        how = f"choose one with --use N: {', '.join(map(str, self.numbers()))}"
        require(previous, f"{self.path} has no version that was current before version {current}; {how}")
        version = self.load(previous[-1])
        if current in self.numbers():
            self.reject(current, f"rolled back to version {version.number}")
        write_atomically(self.path / "CURRENT", f"{version.number}\n")
        self.write_previous(previous[:-1])
        return version

    def write_previous(self, numbers: list[int]) -> None:
        write_atomically(self.path / "PREVIOUS", "".join(f"{number}\n" for number in numbers))

    def reject(self, number: int, reason: str) -> None:
        """Note why a version is no candidate any more."""
        write_atomically(self.path / str(number) / REJECTED, f"{reason}\n")

    def draft(self) -> AbstractContextManager[Path]:
        """Yield a hidden folder for the files of a new version, and remove it at the end; see ``publish``."""
        return draft(self.path)

    def publish(self, draft: Path) -> int:
        """Add checksums to a draft and make it the next version, not yet the current one; return its number."""
        files = sorted(file for file in draft.iterdir() if file.is_file())
        (draft / SUMS).write_text("".join(f"{digest(file)}  {file.name}\n" for file in files), encoding="utf-8")
        while True:
            number = 1 + max((int(each.name) for each in self.path.iterdir() if each.name.isdecimal()), default=0)
            with suppress(FileExistsError, NotADirectoryError):  # of another export at the same time
                if os.name != "nt":  # Windows replaces no folder, others an empty one
                    (self.path / str(number)).mkdir()
                draft.rename(self.path / str(number))
                return number
