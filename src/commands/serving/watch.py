"""What is seen of the pictures in use. Nothing of it may fail a request."""

import traceback
from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np

from src.analysis.drift import Drift, looks, traits
from src.commands.serving.metrics import Metrics
from src.runs.exports import Version

AT_ONCE = 50  # pictures, which take about as long as one


class Watch:
    """Compare the pictures and predictions of a version with the reference of its export, in any thread."""

    def __init__(self, version: Version, records: bool, metrics: Metrics, log: Callable[[str], None]) -> None:
        has_reference = (version.path / "reference.json").is_file()
        self.version, self.metrics, self.log = version, metrics, log
        self.records, self.needed = records, records or has_reference
        self.drift = Drift(version.reference) if has_reference else None
        self.drifting: list[str] = []
        self.lock = Lock()
        self.kept: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []  # batches until there are enough

    def __call__(self, pixels: np.ndarray, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return looks and traits of a batch, each (N,), for its records; nothing if there are none."""
        if not self.needed:
            return {}
        try:
            with self.lock:
                return self.look(pixels, outputs)
        except Exception:
            self.needed = False
            self.log(f"drift is no longer computed: {traceback.format_exc()}")
            return {}

    def look(self, pixels: np.ndarray, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
        if not self.records:
            self.kept.append((pixels, outputs))
            if sum(len(each) for each, _ in self.kept) < AT_ONCE:
                return {}
            pixels = np.concatenate([each for each, _ in self.kept])
            outputs = {name: np.concatenate([each[name] for _, each in self.kept]) for name in outputs}
            self.kept = []
        values = {**looks(pixels), **traits(self.version.info, outputs)}
        if self.drift:
            self.compare(self.drift, values)
        return values

    def compare(self, drift: Drift, values: dict[str, Any]) -> None:
        before = drift.checked
        drift.add(values)
        if drift.checked > before:
            drifting = drift.state()["drifting"]
            self.metrics.add("drift_checked_total", drift.checked - before)
            if drifting != self.drifting:
                self.log(f"drift in version {self.version.number}: {', '.join(drifting) or 'none any more'}")
            self.drifting = drifting
