"""Diabetes, a small table of numbers, which needs no download."""

from typing import Any

import numpy as np

from src.data.loading.csv_file import Rows
from src.data.table import Table


class Diabetes(Table):
    """442 patients with 10 measurements; target: progress of the disease after a year, 25 to 346; Efron et al., 2004.

    The table comes with scikit-learn: https://scikit-learn.org/stable/datasets/toy_dataset.html#diabetes-dataset.

    Args:
        kwargs: see ``src.data.Table``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(file="diabetes", target="progress", **kwargs)

    def read_rows(self) -> Rows:
        from sklearn.datasets import load_diabetes  # slow to import

        data = load_diabetes(scaled=False)
        table = np.column_stack([data.data, data.target])
        names = [*data.feature_names, "progress"]
        return {i: dict(zip(names, map(str, row), strict=True)) for i, row in enumerate(table.tolist(), 2)}
