"""Plan: what a study tries, read from the section ``search`` of its configs and checked without torch."""

import json
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from src import UserError, require
from src.commands.studies.space import checked, is_int, points
from src.config.checks import did_you_mean

NAMED_SAMPLERS, NAMED_PRUNERS = ("grid", "random", "tpe", "gp"), ("none", "median", "hyperband")
MAX_GRID = 100_000


@dataclass
class Plan:
    """What a study tries and how: the key ``search`` of a config.

    Args:
        space: of each dotted key its choices, a list, or its range: {from, to, log, step}; with ``when: {key: value}``
            it applies only to trials in which an earlier key has that value, or one of a list. The key ``config``
            chooses among files, such as presets.
        sampler: what chooses the settings of a trial: grid, random, tpe, gp, or a sampler of Optuna by its class path.
        trials: number of trials in all, however often the search is started; by default all points of a grid.
        monitor: validation metric to optimize, by default that of the best checkpoint.
        mode: whether higher or lower is better, if the name of the metric does not tell.
        prune: what stops poor trials early: none, median, hyperband, or a pruner of Optuna by its class path.
        seeds: training seeds of the runs of a trial, whose mean is its value.
        folds: ``all`` to also run each trial on each fold of the data.
        confirm: {top: K, seeds: [...]}: train the best K again with new seeds; the best by these is the winner.
        attempts: how often in a row a trial may end without a new checkpoint before it fails.
        sampler_seed: seed of the sampler, which with the number of a trial and the trials before it defines its draws.
    """

    space: dict[str, Any] = field(default_factory=dict)
    sampler: Any = "tpe"
    trials: int | None = None
    monitor: str | None = None
    mode: str | None = None
    prune: Any = "none"
    seeds: list[int] = field(default_factory=lambda: [0])
    folds: str | None = None
    confirm: dict[str, Any] | None = None
    attempts: int = 3
    sampler_seed: int = 0

    def __post_init__(self) -> None:
        require(isinstance(self.space, dict), f"search.space must hold dotted keys, got {self.space!r:.60}")
        for key in self.space:
            self.space[key] = checked(self.space, key)
        check_name("sampler", self.sampler, NAMED_SAMPLERS)
        check_name("prune", self.prune, NAMED_PRUNERS)
        positive = [("attempts", self.attempts), ("trials", 1 if self.trials is None else self.trials)]
        for name, value in positive:
            require(is_int(value) and value >= 1, f"search.{name} must be an integer of at least 1, got {value!r}")
        require(is_int(self.sampler_seed), f"search.sampler_seed must be an integer, got {self.sampler_seed!r}")
        check_seeds("search.seeds", self.seeds)
        require(self.folds in (None, "all"), f"search.folds must be all, or left out, got {self.folds!r}")
        test = self.monitor is not None and str(self.monitor).startswith("test")
        require(
            not test,
            f"search.monitor must be a validation metric, because a test set chooses nothing, got {self.monitor}",
        )
        require(self.mode in (None, "max", "min"), f"search.mode must be max or min, got {self.mode!r}")
        if self.confirm is not None:
            known = isinstance(self.confirm, dict) and self.confirm.keys() == {"top", "seeds"}
            require(known, f"search.confirm must be {{top: K, seeds: [...]}}, got {self.confirm!r:.80}")
            top = self.confirm["top"]
            require(is_int(top) and top >= 1, f"search.confirm.top must be an integer of at least 1, got {top!r}")
            check_seeds("search.confirm.seeds", self.confirm["seeds"])
            used = sorted({*self.confirm["seeds"]} & {*self.seeds})
            require(not used, f"search.confirm.seeds must be new ones, got {used} of search.seeds")
        if self.is_grid:
            count = sum(1 for _ in islice(points(self.space), MAX_GRID + 1))
            require(count <= MAX_GRID, f"search.space has a grid of more than {MAX_GRID:,} points: use another sampler")
            self.trials = min(self.trials or count, count)
        require(self.trials is not None, "search.trials must say how many trials to run: type --search.trials=20")

    @classmethod
    def read(cls, files: list[str], settings: list[str]) -> "Plan":
        """Return the plan of the section ``search`` of configs, a later one over an earlier, and of typed settings."""
        section: dict[str, Any] = {}
        for file in files:
            layer = yaml.safe_load(Path(file).read_text(encoding="utf-8")).get("search", {})
            require(
                isinstance(layer, dict), f"config {file}: search must hold settings, 'key: value', got {layer!r:.60}"
            )
            section |= layer
        for each in [each for each in settings if each.startswith("--search.")]:
            name, typed, value = each.removeprefix("--search.").partition("=")
            require(typed, f"--search.{name} needs a value: --search.{name}=VALUE")
            whole = 'type the whole value, such as --search.confirm="{top: 5, seeds: [1, 2, 3]}"'
            require("." not in name, f"unknown setting search.{name}: {whole}")
            try:
                section[name] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise UserError(f"--search.{name} must be YAML, got {value!r:.60}") from None
        known = list(cls.__dataclass_fields__)
        for name in section:
            hint = did_you_mean(str(name), known, "search.") or f"; settings: {', '.join(known)}"
            require(name in known, f"unknown setting search.{name}{hint}")
        example = "a study needs a section search: add --config configs/search/digits.yaml, or --search.seeds=[0,1,2]"
        require(section, example)
        return cls(**section)

    @property
    def total(self) -> int:
        return self.trials or 0

    @property
    def is_grid(self) -> bool:
        return self.sampler == "grid" or not self.space

    def runs(self, folds: int, confirm: bool = False) -> list[tuple[str, list[str]]]:
        """Return name and settings of each run of a trial."""
        seeds = self.confirm["seeds"] if confirm and self.confirm else self.seeds
        named = [(f"seed_{seed}", [f"--seed_everything={seed}"]) for seed in seeds]
        if self.folds is None:
            return named
        return [(f"{name}_fold_{i}", [*typed, f"--data.fold={i}"]) for name, typed in named for i in range(folds)]

    def fixed(self) -> dict[str, Any]:
        """Return what must not change between two starts of a study."""
        return {name: value for name, value in asdict(self).items() if name not in ("trials", "confirm", "attempts")}


def typed(settings: dict[str, Any]) -> list[str]:
    """Return settings as they are typed; ``config`` is a file."""
    return [f"--{key}={as_text(value)}" for key, value in settings.items() if (key, value) != ("config", None)]


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def check_name(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse what is neither a known name nor a class path, with or without arguments."""
    path = value.get("class_path") if isinstance(value, dict) and value.keys() <= {"class_path", "init_args"} else value
    settings = value.get("init_args", {}) if isinstance(value, dict) else {}
    valid = isinstance(path, str) and (path in known or "." in path) and isinstance(settings, dict)
    hint = did_you_mean(str(path), known)
    require(valid, f"search.{name} must be {', '.join(known)} or a class path of Optuna, got {value!r:.60}{hint}")


def check_seeds(name: str, seeds: Any) -> None:
    valid = isinstance(seeds, list) and seeds and all(is_int(each) and 0 <= each < 2**32 for each in seeds)
    require(
        valid and len({*seeds}) == len(seeds),
        f"{name} must be a list of different integers in [0, 2^32), got {seeds!r:.60}",
    )
