"""Table: rows of a CSV file, with named columns of numbers and categories."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src import UserError, require
from src.data.base import DataModule
from src.data.loading.csv_file import Rows, is_missing, parse, read_csv
from src.data.loading.splits import Samples, digest, hold_out

Missing = Literal["refuse", "drop", "mean", "median"]


class Table(DataModule):
    """Rows of a CSV file with a header. Columns of text are categories, one input for each; numbers are standardized.

    Whatever this needs is measured on the training split alone and stored in checkpoints: means, standard deviations,
    values that fill gaps, and categories. A category that is unknown there has 0 in all its inputs. Nets get (N, D, 1,
    1), with one of the D channels for each number and category, as ``src.nets.MLP`` takes it.

    Args:
        file: the CSV file, below ``root``.
        target: name of the column to predict, or a list of several columns of numbers; a column of text has classes.
        columns: names of the input columns; by default all others.
        missing: what to do with gaps, such as an empty field or NA: ``refuse`` them, ``drop`` the rows, or fill them by
            the ``mean`` or ``median`` of the column, and those of a category by the most frequent one.
        classes: whether the values of the target are classes even if they are numbers, such as 0 and 1.
        test_fraction: fraction of the rows held out as the test split; a fixed one, stratified by class.
        kwargs: see ``src.data.DataModule``; ``groups`` is the name of a column, such as patient, which is then no input
            by default.
    """

    holds_images = False

    def __init__(
        self,
        file: str,
        target: str | list[str],
        columns: list[str] | None = None,
        missing: Missing = "refuse",
        classes: bool = False,
        test_fraction: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(0 < test_fraction < 1, f"test_fraction must be in (0, 1), got {test_fraction}")
        require(target and columns != [], f"target and columns must name columns, got {target} and {columns}")
        self.file, self.missing, self.test_fraction = self.root / Path(file).expanduser(), missing, test_fraction
        self.target, self.columns = [target] if isinstance(target, str) else target, columns
        named = [*self.target, *(columns or [])]
        require(len(self.target) == 1 or not classes, f"classes needs one target, got {', '.join(self.target)}")
        self.classes = classes
        twice = sorted({name for name in named if named.count(name) > 1})
        require(not twice, f"target and columns must name each column once, got {', '.join(twice)} several times")
        self.measured: list[tuple[Any, ...]] = []  # of each column: (fill, mean, std), or (fill, categories)

    def load(self, train: bool) -> tuple[Any, Tensor]:
        rows = self.read_rows()
        found = next(iter(rows.values()))
        others = [*self.target, *([self.groups] if self.groups else [])]
        names = self.columns or [name for name in found if name and name not in others]
        for name in [*names, *others]:
            require(name in found, f"{self.file} has no column {name}; it has {', '.join(found)}")
        require(names, f"{self.file} has no column but the target {', '.join(self.target)}: add inputs")
        if train and "" in found:
            self.notes += [("note", f"{self.file}: a column without a name, such as an index, is not used")]
        if self.missing == "drop":
            used = [*names, *others]
            rows = {i: row for i, row in rows.items() if not any(is_missing(row[name]) for name in used)}
            require(len(rows) > 1, f"{self.file} has fewer than two rows without gaps")
        columns = [parse(self.file, name, rows, self.missing in ("mean", "median")) for name in names]
        targets = self.parse_targets(rows)
        sets = hold_out(targets, self.test_fraction, self.file, self.groups_of([f"row {i}" for i in rows]))
        index = sets[0 if train else 1]
        values = np.array(columns, dtype=object).T
        self.test_hash = digest([names, columns, targets.tolist()], Samples(values, targets, sets[1]))
        self.train_names, self.files["test"] = ([f"row {[*rows][i]}" for i in each.tolist()] for each in sets)
        if train:
            return values[index.numpy()], targets[index]
        try:
            return self.encode(values[index.numpy()]), targets[index]
        except (TypeError, ValueError, LookupError):
            raise UserError(f"the statistics in the checkpoint are not of the columns of {self.file}") from None

    def read_rows(self) -> Rows:
        """Return the fields of each row by column."""
        return read_csv(self.file)

    @cached_property
    def named_groups(self) -> dict[str, str]:
        """Return the field of the column ``groups`` of each row that has one."""
        rows = {f"row {i}": row[str(self.groups)].strip() for i, row in self.read_rows().items()}
        return {name: group for name, group in rows.items() if not is_missing(group)}

    def parse_targets(self, rows: Rows) -> Tensor:
        columns = [parse(self.file, name, rows, may_miss=False) for name in self.target]
        if self.classes or (len(columns) == 1 and isinstance(columns[0][0], str)):
            found = sorted({*columns[0]})
            self.class_names = [each if isinstance(each, str) else str(each).removesuffix(".0") for each in found]
            return torch.tensor([found.index(each) for each in columns[0]])
        for name, column in zip(self.target, columns, strict=True):
            require(not isinstance(column[0], str), f"the target column {name} has text, such as {column[0]!r}")
        numbers = torch.tensor(columns, dtype=torch.float64).T.float()
        return numbers[:, 0] if len(columns) == 1 else numbers

    def measure(self, train: Samples, val: Samples) -> None:
        """Measure the columns on the training split, and replace the values of both splits by inputs."""
        self.measured = measure(train.images[train.index.numpy()], self.missing)
        inputs = self.encode(train.images)
        for split in (train, val):
            split.images = inputs

    def encode(self, values: Any) -> Tensor:
        """Return inputs (N, D, 1, 1) of raw values (N, columns), in float32."""
        parts: list[Any] = []
        for column, (fill, *rest) in zip(values.T, self.measured, strict=True):
            filled = [fill if value is None else value for value in column]
            if isinstance(fill, str):
                parts += [[value == category for value in filled] for category in rest[0]]
            else:
                parts.append((np.array(filled, dtype=float) - rest[0]) / rest[1])
        return torch.tensor(np.array(parts, dtype=np.float32).T)[:, :, None, None]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"measured": self.measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require("measured" in state, f"the checkpoint lacks the state of {type(self).__name__}: start a new run")
        super().load_state_dict(state)
        self.measured = state["measured"]


def measure(values: Any, missing: Missing) -> list[tuple[Any, ...]]:
    """Return of each column the value that fills gaps, then mean and std if it has numbers, or the categories of texts.

    scikit-learn measures them; here they become plain values, which a checkpoint can hold.
    """
    from sklearn.compose import ColumnTransformer  # slow to import
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    known = [next((value for value in column if value is not None), None) for column in values.T]
    require(None not in known, "a column has no values in the training split: drop it")
    texts, numbers = ([i for i, value in enumerate(known) if isinstance(value, str) == text] for text in (True, False))
    fill_texts = SimpleImputer(missing_values=None, strategy="most_frequent")
    fill_numbers = SimpleImputer(strategy="median" if missing == "median" else "mean")
    parts = [
        ("texts", make_pipeline(fill_texts, OneHotEncoder()), texts),
        ("numbers", make_pipeline(fill_numbers, StandardScaler()), numbers),
    ]
    fitted = ColumnTransformer(parts).fit(values).named_transformers_
    found: dict[int, tuple[Any, ...]] = {}
    if texts:
        fill, one_hot = fitted["texts"]
        found |= zip(texts, zip(fill.statistics_, map(list, one_hot.categories_), strict=True), strict=True)
    if numbers:
        fill, scale = fitted["numbers"]
        each = (fill.statistics_.tolist(), scale.mean_.tolist(), scale.scale_.tolist())
        found |= zip(numbers, zip(*each, strict=True), strict=True)
    return [found[i] for i in range(len(known))]
