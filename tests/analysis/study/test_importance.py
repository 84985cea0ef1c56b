"""Importance of keys: that of Optuna on the same trials, next to what shuffled values reach."""

import json
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from src.analysis.study.axes import Axis
from src.analysis.study.importance import importances
from tests.studies import SPACE, made_trials

AXES = [Axis(key, key, entry) for key, entry in SPACE.items() if len(entry.get("choices", "ab")) > 1]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_importance_is_that_of_optuna(mode: str) -> None:
    trials = [each for each in made_trials(120) if each.state == "complete" and each.value > 0]
    lr, size, depth = (next(x for x in AXES if x.key.endswith(end)) for end in (".lr", "batch_size", "depth"))
    study = optuna.create_study(direction={"max": "maximize", "min": "minimize"}[mode])
    kinds: dict[str, Any] = {lr.key: FloatDistribution(1e-5, 1.0, log=True), depth.key: IntDistribution(1, 4)}
    kinds |= {size.key: CategoricalDistribution(size.choices)}
    for each in trials:
        params = {key: each.settings[key] for key in kinds} | {size.key: json.dumps(each.settings[size.key])}
        study.add_trial(optuna.trial.create_trial(value=each.value, params=params, distributions=kinds))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    expected = optuna.importance.get_param_importances(study, evaluator=evaluator)
    found = {x.key: share for x, share, _ in importances([lr, size, depth], trials, mode)}
    assert len(trials) > 50
    assert found == pytest.approx(expected)


def test_a_key_that_decides_is_above_chance_and_others_are_not() -> None:
    trials = [each for each in made_trials(160) if each.state == "complete" and each.value > 0]
    first, *others = importances(AXES, trials, "max")
    assert first[0].key == "model.optimizer.lr"
    assert first[1] > 0.8 > first[2]
    assert sum(share > chance for _, share, chance in others) <= 1  # of five, at a level of 5 %
    assert sum(share for _, share, _ in [first, *others]) == pytest.approx(1)


def test_equal_values_have_no_importance_or_that_of_chance() -> None:
    trials = [each for each in made_trials(60) if each.state == "complete"]
    for each in trials:
        each.values = {"seed_0": 0.5}
    assert all(0 <= share <= 1 for _, share, _ in importances(AXES, trials, "max"))
