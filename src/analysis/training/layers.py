"""Statistics of a net's layers during training, and the rules that call a layer unhealthy."""

import difflib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from math import exp, hypot, isfinite, log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src import UserError, compile_pattern

IMAGES = 16  # of a batch whose activations are measured
IN_A_ROW = 3  # measurements until a lasting fault is reported
EARLIER = 3  # measurements that a layer's history needs before it is compared with
DEAD = {IN_A_ROW: 0.9, 10: 0.5}  # share of units that must be silent, by the number of measurements
SATURATED = 0.9  # share of outputs
VANISHING, EXPLODING = 1e-4, 20.0  # gradient norm / the usual one, and / the largest so far
WEAKEST = 1e-5  # gradient per weight / that of the layer with the largest
SLOWEST, FASTEST = 1e-6, 1.0  # update / weight; about 1e-3 is usual
LOWEST: dict[Any, int] = {nn.Tanh: -1, nn.Softsign: -1, nn.Hardtanh: -1, nn.Sigmoid: 0, nn.Hardsigmoid: 0}  # to 1


def find_layers(module: nn.Module, pattern: str | None = None) -> dict[str, nn.Module]:
    """Return the modules whose full name matches a regular expression; by default layers with weights, activations."""
    named = {name: each for name, each in module.named_modules() if name}
    if pattern is None:
        leaves = {name: each for name, each in named.items() if not [*each.children()]}
        activations = nn.ReLU.__module__
        return {n: m for n, m in leaves.items() if type(m).__module__ == activations or [*m.parameters()]}
    compiled = compile_pattern("layers", pattern)
    found = {name: each for name, each in named.items() if compiled.fullmatch(name)}
    if not found:
        closest = ", ".join(difflib.get_close_matches(pattern, named, n=3, cutoff=0))
        raise UserError(f"layers {pattern!r} matches no layer; closest: {closest}")
    return found


def output_statistics(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Return mean and std, (2,); unless the module has weights, also the values per unit that are not 0, (units,).

    If it has limits, last the share of values within 1.5 % of the range from one: there the slope of tanh is below 6 %
    of its largest. Units are channels of images (N, C, ...), else the last dimension of ``x``.
    """
    found = [torch.stack(torch.std_mean(x, correction=0)[::-1])]
    if [*module.parameters(recurse=False)]:  # its outputs are rarely 0, and saturate in the next layer
        return found
    unit = 1 if x.ndim > 3 else x.ndim - 1
    found.append((x != 0).movedim(unit, 0).flatten(1).sum(1))
    if (low := LOWEST.get(type(module))) is not None:
        margin = 0.015 * (1 - low)
        found.append(1 - ((x > low + margin) & (x < 1 - margin)).float().mean()[None])
    return found


@dataclass
class Measured:
    """What is known of a layer at one step; a part that was not measured is None."""

    mean: float | None = None
    std: float | None = None
    zeros: float | None = None  # share of outputs, as is the next
    saturation: float | None = None
    silent: Tensor | None = None  # units of which all outputs are 0, bool
    gradient: float | None = None  # norm over all parameters of the layer, as are the next two
    weight: float | None = None
    update: float | None = None
    size: int = 0  # number of parameters with a gradient
    matrix: bool = False  # whether these are more than a bias or the factors of a norm, which may start at 0

    def add_outputs(self, values: int, moments: Tensor, live: Any = None, saturated: Any = None) -> None:
        """Set what ``output_statistics`` returned for a number of values."""
        self.mean, self.std = moments.tolist()
        if live is not None:
            self.zeros, self.silent = 1 - float(live.sum()) / values, live == 0
        self.saturation = None if saturated is None else float(saturated)

    def add_weights(self, p: Tensor, gradient: float, weight: float, update: float) -> None:
        """Add a parameter with its norms."""
        self.gradient, self.weight = hypot(self.gradient or 0, gradient), hypot(self.weight or 0, weight)
        self.update, self.size = hypot(self.update or 0, update), self.size + p.numel()
        self.matrix = self.matrix or p.ndim > 1

    def values(self) -> dict[str, float]:
        """Return the numbers to log, by the names of their columns."""
        found = {f"activation_{name}": getattr(self, name) for name in ("mean", "std", "zeros", "saturation")}
        found |= {f"{name}_norm": getattr(self, name) for name in ("gradient", "weight")}
        found["update_ratio"] = self.update / self.weight if self.update is not None and self.weight else None
        return {name: value for name, value in found.items() if value is not None}


@dataclass
class History:
    """Earlier measurements of all layers, as far as the rules need them."""

    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    largest_of_all: float = 0.0  # norm of a layer's gradient

    def faults(self, measured: dict[str, Measured], output: str = "") -> dict[tuple[str, str], str]:
        """Add a measurement; return what the rules find, by kind and layer.

        ``output`` is the layer of the predictions, which may saturate: confident probabilities do.
        """
        rms = {name: each.gradient / each.size**0.5 for name, each in measured.items() if each.gradient is not None}
        most = max((value for value in rms.values() if isfinite(value)), default=0.0)
        found: dict[tuple[str, str], str] = {}
        for name, each in measured.items():
            past = self.layers.setdefault(name, {"row": {}, "seen": 0, "largest": 0.0, "log": 0.0, "ratio": 0.0})
            new = self.outputs(past, each, name != output)
            if each.gradient is not None and isfinite(each.gradient) and most:  # no gradient anywhere: the loss is 0
                new |= self.gradients(past, each.gradient, rms[name] / most) | self.updates(past, each)
            found |= {(kind, name): text for kind, text in new.items()}
        norms = [each.gradient for each in measured.values() if each.gradient is not None and isfinite(each.gradient)]
        self.largest_of_all = max([self.largest_of_all, *norms])
        return found

    def outputs(self, past: dict[str, Any], each: Measured, hidden: bool) -> dict[str, str]:
        found = {}
        if each.silent is not None:
            before = past.get("silent")
            before = 0 if before is None or before.shape != each.silent.shape else before  # in measurements
            past["silent"] = (before + 1) * each.silent
            for row, share in DEAD.items():
                if (dead := int((past["silent"] >= row).sum())) >= share * each.silent.numel():
                    what = f"{dead} of {each.silent.numel()} units were 0 for all images in the last {row} measurements"
                    found["dead"] = f"{what} (rule: at least {share:.0%})"
        if lasting(past, "saturated", hidden and (each.saturation or 0) > SATURATED):
            rule = f"rule: above {SATURATED:.0%}, {IN_A_ROW} times in a row"
            found["saturated"] = f"{each.saturation:.0%} of its outputs are at a limit ({rule})"
        return found

    def gradients(self, past: dict[str, Any], norm: float, share: float) -> dict[str, str]:
        found, row = {}, f"{IN_A_ROW} times in a row"
        usual = exp(past["log"]) if past["seen"] >= EARLIER else 0.0  # a geometric mean
        if lasting(past, "vanishing", low := norm < VANISHING * usual):
            rule = f"rule: below {VANISHING:g} of it {row}"
            found["vanishing"] = f"gradient norm {norm:.1e}, usually {usual:.1e} ({rule})"
        if lasting(past, "weak", share < WEAKEST):
            rule = f"rule: below {WEAKEST:g} {row}"
            found.setdefault("vanishing", f"gradient {share:.1e} of the largest layer's, per weight ({rule})")
        if past["seen"] >= EARLIER and norm > max(EXPLODING * past["largest"], self.largest_of_all):
            rule = f"rule: above {EXPLODING:g} times that"
            found["exploding"] = f"gradient norm {norm:.1e}, at most {past['largest']:.1e} before ({rule})"
        past["largest"] = max(past["largest"], norm)
        if norm and not low:
            past["seen"] += 1
            past["log"] += (log(norm) - past["log"]) / min(past["seen"], 10)
        return found

    def updates(self, past: dict[str, Any], each: Measured) -> dict[str, str]:
        if each.update is None or not each.weight or not each.matrix or not isfinite(each.update):
            return {}
        ratio, found = each.update / each.weight, {}
        past["ratio"] = max(past["ratio"], ratio)  # warm-up begins, and a schedule ends, with small updates
        if lasting(past, "slow", past["ratio"] < SLOWEST):
            rule = f"rule: below {SLOWEST:g} so far; 1e-3 is usual"
            found["slow"] = f"update at most {past['ratio']:.1e} of the weights ({rule})"
        if lasting(past, "fast", ratio > FASTEST):
            rule = f"rule: above {FASTEST:g}, {IN_A_ROW} times in a row; 1e-3 is usual"
            found["fast"] = f"update {ratio:.1e} of the weights ({rule})"
        return found


def lasting(past: dict[str, Any], kind: str, now: bool) -> bool:
    """Count measurements in a row in which a rule holds; tell whether they are enough."""
    past["row"][kind] = past["row"].get(kind, 0) + 1 if now else 0
    return past["row"][kind] >= IN_A_ROW


def memory_mib(device: torch.device) -> float | None:
    """Return the memory that this process uses: on a GPU the largest so far, else what is resident now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with suppress(OSError):  # only Linux has it
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return None
