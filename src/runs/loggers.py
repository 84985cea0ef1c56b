"""The logs of a run: CSV and TensorBoard side by side, continued without gaps or doubles."""

import csv
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger


class ContinuedCSVLogger(CSVLogger):
    """metrics.csv of a run folder. Lightning's own logger deletes what it finds there.

    Args:
        folder: the run folder.
        step: rows from this step on are dropped: they will be written again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, name="", version="")
        self.file, self.kept = folder / "metrics.csv", folder / "metrics.csv.kept"
        source = self.kept if self.kept.is_file() else self.file  # kept: the rewriting below was cut off
        rows = list(csv.DictReader(source.read_text().splitlines())) if source.is_file() else []
        self.rows = [row for row in rows if (row["step"] or "").isdecimal() and int(row["step"]) < step]  # none torn

    @property
    @rank_zero_experiment
    def experiment(self) -> object:
        if self._experiment is None:
            if self.rows and not self.kept.is_file():
                self.file.replace(self.kept)
            writer = super().experiment
            writer.metrics = [{key: value for key, value in row.items() if value} for row in self.rows]
            writer.save()
            self.kept.unlink(missing_ok=True)
        return self._experiment


def run_loggers(folder: Path, step: int = 0) -> list[Logger]:
    """Return the loggers of a run folder that goes on at a step."""
    return [ContinuedCSVLogger(folder, step), TensorBoardLogger(folder, name="", version="", purge_step=step or None)]
