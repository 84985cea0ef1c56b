"""Gate: what a metric must reach before a version is published."""

import math
import operator
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src import UserError, read_json, require
from src.config.arguments import Options
from src.config.build import Experiment

COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
SHOWN = 12  # names of metrics, at most
Metrics = dict[str, dict[str, Any]]  # name -> value, and low and high, the ends of its 95 % interval, or None


@dataclass
class Gate:
    """A metric and the value that it must reach."""

    text: str
    metric: str
    sign: str
    value: float

    @classmethod
    def parse(cls, text: str) -> "Gate":
        found = re.fullmatch(r"\s*([^\s<>=]+)\s*(>=|<=|>|<)\s*(\S+)\s*", text)
        try:
            value = float(found[3]) if found else math.nan
        except ValueError:
            value = math.nan
        if found is None or not math.isfinite(value):
            raise UserError(f"--gate must be such as 'test/accuracy>=0.98', with >=, >, <= or <, got {text!r}")
        return cls(text, found[1], found[2], value)

    def check(self, metrics: Metrics, lower: bool) -> None:
        """Refuse metrics that miss the gate; with ``lower``, the end of the interval that is worse must reach it."""
        why = "the test set has no targets for it, or it is not a number"
        require(self.metric in metrics, f"gate missed: {self.metric} could not be measured: {why}")
        m = metrics[self.metric]
        low, high = m["low"], m["high"]
        value = (low if self.sign.startswith(">") else high) if lower else m["value"]
        spread = "" if low is None else f", 95 % between {low:.4f} and {high:.4f}"
        which = "the worse end of its interval" if lower else "it"
        text = f"gate missed: {self.metric} is {m['value']:.4f}{spread}, but {which} must be {self.sign} {self.value:g}"
        require(COMPARE[self.sign](value, self.value), text)


def logged(x: Experiment, options: Options) -> Metrics:
    """Return the metrics in the results.json of a run, without intervals, NaN for one that was not finite.

    There are none of a model other than the one tested: another checkpoint, or other settings than those of the run.
    """
    best = x.run and Path(str(x.config.ckpt_path)) == x.run.path / "checkpoints/best.ckpt"
    as_trained = not (options.settings or options.config[1:])
    found = read_json(x.run.path / "results.json", {}) if x.run and best and as_trained else {}
    numbers = {name: math.nan if value is None else value for name, value in found.items()}
    return {
        name: {"value": value, "low": None, "high": None, "samples": None}
        for name, value in numbers.items()
        if isinstance(value, int | float)
    }


def check_known(gates: list[Gate], headline: str | None, others: Metrics, lower: bool) -> None:
    """Refuse gates of unknown metrics; only the headline metric has an interval, if the export has one."""
    require(gates or not lower, "--gate_lower needs --gate")
    known = [*dict.fromkeys([headline, *others] if headline else others)]
    finite = [name for name in known if name == headline or math.isfinite(others[name]["value"])]
    shown = [name for name in finite if name.count("/") < 2]
    choices = ", ".join(shown[:SHOWN] + ["..."] * (len(shown) > SHOWN)) or "none"
    for gate in gates:
        text = f"--gate: {gate.metric} is {{}}; choose from {choices}"
        require(gate.metric in known, text.format("no metric of this export"))
        require(gate.metric in finite, text.format("not a finite number in the results.json of the run"))
        only = f"only {headline} has one" if headline else "no metric of this export has one"
        text = f"--gate_lower: {gate.metric} has no interval, {only}"
        require(gate.metric == headline or not lower, text)
