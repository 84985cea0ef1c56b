"""Records of what a model answered in use, and the right labels that people gave. This module does not import torch."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from threading import get_ident
from time import monotonic
from typing import Any

from src import UserError, require
from src.runs.summary import echo

PICTURES = ("mask", "image")  # parts of an answer that are not kept
SAY_SECONDS = 60.0  # between two warnings
ID = re.compile(rb'\{"id":"([^"]*)"')  # at the start of a line
STARTS = {
    b"\x89PNG": "png",
    b"\xff\xd8": "jpg",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"BM": "bmp",
    b"II": "tif",
    b"MM": "tif",
}


def record(answer: Mapping[str, Any], values: Mapping[str, Any], i: int, **origin: Any) -> dict[str, Any]:
    """Return the record of a picture: where it comes from, its answer without pictures, and its looks and traits.

    Args:
        answer: what ``src.runs.answers`` returns.
        values: looks and traits of a batch, see ``src.analysis.drift``.
        i: the position of the picture in the batch.
        origin: ``id``, ``model``, ``run``, ``kind``, of the server ``version``, of ``predict`` ``name``.
    """
    kept = {key: value for key, value in answer.items() if key not in PICTURES}
    traits = {name: float(f"{float(each[i]):.6g}") for name, each in values.items()}
    return {**origin, "time": now(), **kept, "traits": traits}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Records:
    """A folder of JSON lines, one file a day (UTC), and of pictures, to which several processes may add.

    Adding never raises, but tells whether all was written. What was not, as on a full disk, is counted in ``lost``, and
    said once a minute.
    """

    def __init__(self, folder: Path, keep_images: bool = False) -> None:
        self.folder, self.keep_images, self.lost = folder, keep_images, 0
        self.said = -SAY_SECONDS  # when a loss was said last
        self.intact: Path | None = None  # the file whose last line this process wrote completely

    @classmethod
    def find(cls, folder: Path) -> "Records":
        """Return an existing folder of records; refuse any other."""
        found = any(folder.glob("*.jsonl"))
        require(found, f"{folder} is no folder of records: predict writes one with --records DIR")
        return cls(folder)

    def prepare(self) -> None:
        """Create the folder; a UserError if nothing can be written there."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise UserError(f"cannot write records to {self.folder}: {error.strerror}; choose another folder") from None

    def add(self, record: Mapping[str, Any], image: bytes | None = None) -> bool:
        """Write the record of a picture, with the SHA-256 of its file, which is kept with ``keep_images``."""
        kept = True
        if image is not None:
            digest = sha256(image).hexdigest()
            record = {**record, "sha256": digest}
            if self.keep_images:
                kept = self.write(self.picture(digest, image), image, whole=True)
        return self.write(self.folder / f"{record['time'][:10]}.jsonl", line(record)) and kept

    def feedback(self, id: str, label: Any) -> bool:  # noqa: A002
        """Write the right label of a picture: a class, a list of labels, or a number; the last one of an id counts."""
        when = now()
        return self.write(self.folder / f"{when[:10]}.jsonl", line({"id": id, "label": label, "time": when}))

    def picture(self, digest: str, image: bytes) -> Path:
        kind = next((kind for start, kind in STARTS.items() if image.startswith(start)), "img")
        return self.folder / "pictures" / digest[:2] / f"{digest}.{kind}"

    def write(self, file: Path, content: bytes, whole: bool = False) -> bool:
        """Append a line, after a line break if an earlier one was cut off; or write a ``whole`` file if it is new."""
        try:
            if whole:
                keep(file, content)
                return True
            if file != self.intact:
                file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab+", buffering=0) as stream:  # each write is one call, which others cannot divide
                if file != self.intact and stream.tell():
                    stream.seek(-1, os.SEEK_END)
                    content = content if stream.read(1) == b"\n" else b"\n" + content
                require(stream.write(content) == len(content), "the disk is full")
            self.intact = file
            return True
        except (OSError, UserError) as error:
            if monotonic() - self.said >= SAY_SECONDS:
                self.said = monotonic()
                echo(f"warning: records are lost, because {file} cannot be written: {error}"[:300], sys.stderr)
            self.lost, self.intact = self.lost + 1, None
            return False

    def lines(self, word: bytes = b"") -> Iterator[dict[str, Any]]:
        """Yield the lines that contain a word, oldest first; those that were cut off are skipped."""
        for each in self.raw(word):
            try:
                found = json.loads(each)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict) and isinstance(found.get("id"), str):
                yield found

    def raw(self, word: bytes) -> Iterator[bytes]:
        for file in sorted(self.folder.glob("*.jsonl")):
            with file.open("rb") as stream:
                yield from (each for each in stream if word in each)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield all records, oldest first, with the last ``label`` that feedback gave each, if any.

        Of several records with one id, as of clients that send theirs again, the newest gets the label.
        """
        labels = {
            each["id"]: each["label"] for each in self.lines(b'"label"') if "label" in each and "traits" not in each
        }
        found = map(ID.match, self.raw(b'"traits"') if labels else ())
        later = Counter(each[1].decode(errors="replace") for each in found if each)
        for each in self.lines(b'"traits"'):
            if isinstance(each.get("traits"), dict) and isinstance(each.get("time"), str):
                later[each["id"]] -= 1
                labeled = each["id"] in labels and later[each["id"]] <= 0
                yield {**each, "label": labels[each["id"]]} if labeled else each

    def kept(self, record: Mapping[str, Any]) -> Path | None:
        """Return the file of a record's picture, if it was kept."""
        digest = str(record.get("sha256"))
        folder = self.folder / "pictures" / digest[:2]
        return next(iter(folder.glob(f"{digest}.*")), None) if digest.isalnum() else None


def line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), default=str).encode() + b"\n"


def keep(file: Path, content: bytes) -> None:
    """Write a file unless it exists; it gets its name when it is complete."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.{get_ident()}")
    try:
        part.write_bytes(content)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
