"""Board: the state of a study while it runs. Does not import torch."""

import math
import sys
from typing import Any

from src.analysis.study.axes import counts_text, minutes
from src.commands.studies.record import Record, Study
from src.commands.studies.results import estimate, settings_text, write_table
from src.runs.summary import echo

SHOWN = 8  # finished and running trials in the table


class Board:
    """The state of a study while it runs: a table on a terminal, else one line for each trial that ends."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.live: Any = None
        self.known = {each.number for each in study.records() if each.is_finished}

    def __enter__(self) -> "Board":
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.live:
            self.live.stop()
        else:
            self.update()

    def update(self) -> None:
        if not self.study.content:
            return
        records = self.study.records()
        if self.live:
            self.live.update(self.table(records))
        new = [each for each in records if each.is_finished and each.number not in self.known]
        self.known |= {each.number for each in new}
        if new:
            write_table(self.study)
        for each in new if not self.live else ():
            result = each.content.get("error") or f"{self.study.content['monitor']} {estimate(each)}"
            echo(f"trial {each.number:>3}  {each.state:<8}  {result}  {settings_text(self.study, each)}")

    def table(self, records: list[Record]) -> Any:
        from rich.table import Table

        table = Table(box=None, title=self.summary(records), title_justify="left", padding=(0, 2, 0, 0))
        for name in ("trial", "state", self.study.content["monitor"], "settings"):
            table.add_column(name, no_wrap=True, min_width=None if name == "settings" else len("complete"))
        running = [each for each in records if not each.is_finished][:SHOWN]
        for each in [*self.study.ranked()[:SHOWN], *running]:
            table.add_row(
                str(each.number), each.state, estimate(each) if each.values() else "", settings_text(self.study, each)
            )
        return table

    def summary(self, records: list[Record]) -> str:
        done, total = sum(each.is_finished for each in records), self.study.plan.total
        left = f", about {minutes(self.left(records, done, total))} left" if done else ""
        if done == total and self.study.unconfirmed():
            left = f"; confirming, {sum(len(each.values(confirmed=True)) for each in self.study.records())} runs done"
        return f"{self.study.folder.name}: {done} of {total} trials; {counts_text(records)}{left}"

    def left(self, records: list[Record], done: int, total: int) -> float:
        """Return the estimated seconds until all trials have ended, by the mean time of the finished ones."""
        seconds = [each.content.get("seconds", 0.0) for each in records if each.is_finished]
        running = max(1, sum(not each.is_finished for each in records))
        return math.fsum(seconds) / done * (total - done) / running
