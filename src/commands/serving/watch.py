"""What is seen of the pictures in use. Nothing of it may fail a request."""

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from src.analysis.drift import Drift, looks, traits
from src.commands.serving.metrics import Metrics
from src.runs.exports import Version


class Watch:
    """Compare the pictures and predictions of a version with the reference of its export, in the model's thread."""

    def __init__(self, version: Version, needed: bool, metrics: Metrics, log: Callable[[str], None]) -> None:
        has_reference = (version.path / "reference.json").is_file()
        self.version, self.needed, self.metrics, self.log = version, needed or has_reference, metrics, log
        self.drift = Drift(version.reference) if has_reference else None
        self.drifting: list[str] = []

    def __call__(self, pixels: np.ndarray, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return looks and traits of a batch, each (N,), for its records; nothing if nobody needs them."""
        if not self.needed:
            return {}
        try:
            values = {**looks(pixels), **traits(self.version.info, outputs)}
            if self.drift:
                self.compare(self.drift, values)
            return values
        except Exception:
            self.needed = False
            self.log(f"drift is no longer computed: {traceback.format_exc()}")
            return {}

    def compare(self, drift: Drift, values: dict[str, Any]) -> None:
        before = drift.checked
        drift.add(values)
        if drift.checked > before:
            drifting = drift.state()["drifting"]
            self.metrics.add("drift_checked_total", drift.checked - before)
            self.metrics.set("drifting", len(drifting))
            if drifting != self.drifting:
                self.log(f"drift in version {self.version.number}: {', '.join(drifting) or 'none any more'}")
            self.drifting = drifting
