"""Samplers and pruners of Optuna by name, and one sampler for each trial."""

import hashlib
import json
import random
from importlib import import_module
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial

from src import UserError, require
from src.analysis.study.importance import distribution
from src.commands.studies.plan import Plan
from src.commands.studies.space import applies, points

SAMPLERS = {"random": "optuna.samplers.RandomSampler", "tpe": "optuna.samplers.TPESampler"}
SAMPLERS |= {"gp": "optuna.samplers.GPSampler"}
PRUNERS = {"none": "optuna.pruners.NopPruner", "median": "optuna.pruners.MedianPruner"}
PRUNERS |= {"hyperband": "optuna.pruners.HyperbandPruner"}


class SeededSampler(BaseSampler):
    """Draw the settings of each trial with a sampler of its own, seeded by the number of the trial.

    Workers that share one seed would all draw the same points, and a restarted search would draw its first ones again.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.inner = plan, make_sampler(plan)
        self.grid = list(points(plan.space)) if plan.is_grid else []
        random.Random(plan.sampler_seed).shuffle(self.grid)
        self.point: dict[str, Any] = {}  # of the grid

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        key = f"{self.plan.sampler_seed}, {trial.number}"
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")
        self.inner = make_sampler(self.plan, seed)
        self.inner.before_trial(study, trial)
        if self.grid:
            self.point = self.grid[trial.number % len(self.grid)]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        if name in self.point:
            return json.dumps(self.point[name]) if "choices" in self.plan.space[name] else self.point[name]
        return self.inner.sample_independent(study, trial, name, distribution)


def make_sampler(plan: Plan, seed: int = 0) -> BaseSampler:
    return make("sampler", SAMPLERS, "random" if plan.is_grid else plan.sampler, BaseSampler, {"seed": seed})


def make_pruner(plan: Plan) -> BasePruner:
    return make("prune", PRUNERS, plan.prune, BasePruner, {})


def make(name: str, known: dict[str, str], value: Any, kind: type, defaults: dict[str, Any]) -> Any:
    """Return the sampler or pruner of Optuna that a name, or a class path and its arguments, describes."""
    path, given = (value["class_path"], value.get("init_args", {})) if isinstance(value, dict) else (value, {})
    path = known.get(path, str(path))
    module, _, last = path.rpartition(".")
    require(path.startswith("optuna."), f"search.{name} must be a class of Optuna, got {path}")
    try:
        made = getattr(import_module(module), last)(**defaults | given)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"search.{name}: cannot create {path}: {error}") from None
    require(isinstance(made, kind), f"search.{name} must be a {kind.__name__[4:].lower()}, got {path}")
    return made


def suggest(space: dict[str, Any], trial: Trial) -> dict[str, Any]:
    """Return the settings of a trial: those stored, or drawn now."""
    chosen: dict[str, Any] = {}
    for key, entry in space.items():
        if applies(entry, chosen):
            chosen[key] = draw(trial, key, entry)
    return chosen


def draw(trial: Trial, key: str, entry: dict[str, Any]) -> Any:
    kind = distribution(entry)
    if isinstance(kind, CategoricalDistribution):
        return json.loads(str(trial.suggest_categorical(key, kind.choices)))
    suggest = trial.suggest_int if isinstance(kind, IntDistribution) else trial.suggest_float
    return suggest(key, kind.low, kind.high, step=kind.step, log=kind.log)
