"""Made trials of a study, to draw pages of without training."""

from typing import Any

import numpy as np

from src.analysis.study.charts import TIED, WINNER, Trial

SPACE: dict[str, Any] = {
    "model.optimizer": {"choices": ["torch.optim.AdamW", "torch.optim.SGD"]},
    "model.optimizer.momentum": {"from": 0.0, "to": 0.95, "when": {"model.optimizer": "torch.optim.SGD"}},
    "model.optimizer.lr": {"from": 1e-5, "to": 1.0, "log": True},
    "model.net.depth": {"from": 1, "to": 4},
    "model.net.a_key_with_quite_a_long_name": {"choices": [None, "<b>bold</b>", {"class_path": "x" * 40}, 1e-9, 7]},
    "data.batch_size": {"choices": [16 * 2**i for i in range(9)]},
    "data.augment": {"choices": ["only one"]},
}


def settings(draw: np.random.Generator, space: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, entry in space.items():
        if all(found.get(other) == value for other, value in entry.get("when", {}).items()):
            low, high = entry.get("from", 0), entry.get("to", 0)
            found[key] = float(low * (high / low) ** draw.random() if entry.get("log") else draw.uniform(low, high))
            found[key] = round(found[key]) if isinstance(low, int) else found[key]
            found[key] = entry["choices"][draw.integers(len(entry["choices"]))] if "choices" in entry else found[key]
    return found


def made_trials(count: int, space: dict[str, Any] = SPACE, runs: int = 3) -> list[Trial]:
    """Return trials of which a seventh failed, was pruned, or lost its value, the best first; lr decides."""
    draw, found = np.random.default_rng(0), []
    for i in range(count):
        own, state = settings(draw, space), ("complete", "failed", "pruned")[i % 7 // 2 if i % 7 in (2, 4) else 0]
        mean = 0.9 - 0.1 * abs(np.log10(own.get("model.optimizer.lr", 0.01)) + 2)
        values = {f"seed_{k}": float(mean + draw.normal() / 50) for k in range(runs if state == "complete" else 1)}
        values = {} if state == "failed" else {"seed_0": float("nan")} if i % 7 == 6 else values
        error = "out of memory: use a smaller --data.batch_size, <b>or</b> " + "x" * 99 if state == "failed" else ""
        found.append(Trial(i, state, own, values, {}, 3.0 * len(values), error, ""))
    found.sort(key=lambda each: (each.state != "complete", not each.value > -1e9, -each.value if values else 0))
    if found and found[0].state == "complete":
        found[0].note, found[0].confirmed = WINNER, {"seed_7": 0.91, "seed_8": 0.93} if runs > 1 else {}
        for each in found[1:3]:
            each.note = TIED
    return found


VALUES: dict[str, Any] = {"commands": ["python -m src.cli test --run " + "x" * 99], "folds": False}
