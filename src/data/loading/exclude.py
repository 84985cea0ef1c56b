"""Samples that are left out of a data set or grouped by name, and image files that cannot be decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from src import UserError, require
from src.data.loading.splits import Samples, lost_classes


class NamedSamples:
    """A data set whose samples have names: of their files, or split and index such as ``test/123``."""

    tolerant = False  # True: undecodable files and missing classes are no errors, because ``check`` names them
    excluded_hash = ""  # identifies the test samples that are left out
    exclude: Path | None  # names of samples to leave out, one a line
    groups: str | None  # a CSV file of names and groups
    files: dict[str, list[str]]  # file name of each image in a split; empty if not read from image files
    train_names: Sequence[str] = ()  # of all samples of the training set, if ``files`` has others
    bad: Mapping[str, str] = MappingProxyType({})  # undecodable files by name, with their errors

    @cached_property
    def excluded(self) -> frozenset[str]:
        """Return the names in the file of samples to leave out; none without a file."""
        if self.exclude is None:
            return frozenset()
        try:
            lines = self.exclude.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
        except OSError as error:
            reason = f"cannot read {self.exclude}: {error.strerror}"
            raise UserError(f"data.exclude: {reason}; write it with check --fix") from None
        return frozenset(line.strip() for line in lines if line.strip())

    def sample_names(self, split: str, count: int) -> list[str]:
        """Return the names of the samples of a set, in its order: train, test, or a separate val."""
        own = self.train_names if split == "train" else ()
        return list(own) or self.files.get(split) or [f"{split}/{i}" for i in range(count)]

    @cached_property
    def named_groups(self) -> dict[str, str]:
        """Map the names of samples to their groups."""
        from src.data.loading.csv_file import read_csv  # most runs need none

        file = Path(str(self.groups)).expanduser()
        found: dict[str, str] = {}
        for row, fields in read_csv(file).items():
            known = {"name", "group"} <= fields.keys()
            require(known, f"data.groups: {file} must have the columns name and group, got {', '.join(fields)[:80]}")
            name, group = fields["name"].strip(), fields["group"].strip()
            require(name and group, f"data.groups: {file}, row {row} must have a name and a group")
            one = found.setdefault(name, group) == group
            require(one, f"data.groups: {file}, row {row}: {name} must have one group, got {found[name]} and {group}")
        return found

    def groups_of(self, names: Sequence[str]) -> list[str] | None:
        """Return the group of each named sample; None without groups."""
        if self.groups is None:
            return None
        lost = [name for name in names if name not in self.named_groups]
        more = f", and {len(lost) - 1} other samples have" if len(lost) > 1 else " has"
        require(not lost, f"data.groups: {[*lost, ''][0]}{more} no group in {self.groups}")
        return [self.named_groups[name] for name in names]


def kept(data: Any, split: str, count: int) -> Tensor:
    """Return the dataset indices of the samples of a set that are not left out."""
    names = data.sample_names(split, count)
    if split == "test" and (out := sorted(data.excluded & {*names})):
        data.excluded_hash = f" without {sha256(repr(out).encode()).hexdigest()[:16]}"
    return torch.tensor([i for i, name in enumerate(names) if name not in data.excluded], dtype=torch.long)


def leave_out(data: Any, train: Samples, val: Samples) -> None:
    """Leave the excluded samples out of both splits; refuse names that no set has, also not the test set."""
    counts = {}
    found = {*data.bad}
    for split, samples in {"train": train, "val": val}.items():
        source = "train" if samples.images is train.images else "val"
        names = data.sample_names(source, len(samples.images))
        keep = torch.tensor([names[i] not in data.excluded for i in samples.index.tolist()], dtype=torch.bool)
        found |= {*names}
        before = replace(samples)
        counts[split], samples.index = int((~keep).sum()), samples.index[keep]
        require(len(samples), f"data.exclude: {data.exclude} leaves no {split} samples")
        data.notes += lost_classes(data, split, before, samples)
    known = {*data.files.get("test", ())}
    if data.excluded - found - known:  # only now, because it must be loaded
        data.setup("test")
        known = {*data.sample_names("test", len(data.splits["test"].images))}
    unknown = sorted(data.excluded - found - known - {*data.bad})
    more = f", and {len(unknown) - 1} others" if len(unknown) > 1 else ""
    example = next(iter(data.sample_names("train", 1)))
    require(not unknown, f"data.exclude: {[*unknown, ''][0]}{more} in {data.exclude} must name samples, as {example}")
    require(not known or known - data.excluded, f"data.exclude: {data.exclude} leaves no test samples")
    counts["test"] = len(data.excluded & known)
    listed = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
    data.notes += [("left out", f"{listed} samples, named in {data.exclude}")] if listed else []


def undecodable(data: Any, paths: Sequence[Path], decoded: dict[str, Any]) -> list[str]:
    """Note in ``data.bad`` what ``decode_all`` could not decode; return the errors of files that are not excluded."""
    good = {*decoded["good"].tolist()}
    names = [str(path.relative_to(data.root)) for i, path in enumerate(paths) if i not in good]
    found = dict(zip(names, decoded["bad"], strict=True))
    data.bad = {**data.bad, **found}
    return [error for name, error in found.items() if name not in data.excluded]
