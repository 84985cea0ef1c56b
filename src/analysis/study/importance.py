"""Which keys of a space decide whether a trial is among the best."""

import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from src.analysis.study.axes import Axis
from src.analysis.study.charts import Trial

ENOUGH, BEST = 20, 5  # complete trials, and the best of them: with fewer it is unstable, says Optuna's documentation
SHUFFLES = 39  # their second highest is exceeded by chance once in 20 times


def distribution(entry: dict[str, Any]) -> Any:
    """Return Optuna's description of an entry of the space; choices are stored as JSON."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # an extra

    if "choices" in entry:
        return CategoricalDistribution([json.dumps(each) for each in entry["choices"]])
    low, high, log, step = entry["from"], entry["to"], bool(entry.get("log")), entry.get("step")
    if isinstance(low, int) and isinstance(high, int) and not isinstance(step, float):
        return IntDistribution(low, high, log, step or 1)
    return FloatDistribution(low, high, log, step)


def importances(axes: Sequence[Axis], trials: Sequence[Trial], mode: str) -> list[tuple[Axis, float, float]]:
    """Return keys, the most important first, each with its share of all importance and the share reached by chance.

    The importance is that of PED-ANOVA, arXiv:2304.10255: how much the distribution of a key among the best tenth of
    the trials, but at least five, differs from that among all. Chance is the second highest of 39 shuffles of the
    values. The trials are complete ones, at least 20.
    """
    import optuna  # an extra

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    kinds = {x.key: distribution(x.entry) for x in axes}
    for each in trials:
        own = {x.key: each.settings[x.key] for x in axes if x.key in each.settings}
        params = {x.key: json.dumps(own[x.key]) if x.choices else own[x.key] for x in axes if x.key in own}
        study.add_trial(
            optuna.create_trial(value=0.0, params=params, distributions={key: kinds[key] for key in params})
        )
    for trial in study.get_trials(deepcopy=False):  # identical objects are compared faster than equal ones
        trial.distributions = {key: kinds[key] for key in trial.params}
    cost = np.array([each.value for each in trials]) * (-1 if mode == "max" else 1)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, BEST / len(cost)))

    def evaluate(cost: Any) -> Any:
        found = evaluator.evaluate(study, target=lambda trial: float(cost[trial.number]))
        return np.array([found.get(x.key, 0.0) for x in axes])

    draw = np.random.default_rng(0)
    with warnings.catch_warnings(action="ignore"):  # of keys that apply to few trials
        real = evaluate(cost)
        chance = np.sort([evaluate(draw.permutation(cost)) for _ in range(SHUFFLES)], axis=0)[-2]
    total = real.sum() or 1.0
    return [(axes[i], float(real[i] / total), float(chance[i] / total)) for i in np.argsort(-real, kind="stable")]
