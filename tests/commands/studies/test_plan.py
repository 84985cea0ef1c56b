"""Plan: the section ``search`` is read from configs and typed settings, and checked."""

from pathlib import Path
from typing import Any

import pytest

from src import UserError
from src.commands.studies.plan import Plan, typed
from src.commands.studies.space import points

LR = {"from": 0.01, "to": 1.0, "log": True}


def plan(space: Any = None, **settings: Any) -> Plan:
    return Plan(space=space or {}, **{"trials": 4} | settings)


def test_later_configs_and_typed_settings_win() -> None:
    Path("a.yaml").write_text("search: {trials: 3, seeds: [1], space: {lr: [1, 2]}}", encoding="utf-8")
    Path("b.yaml").write_text("search: {trials: 5}\ntrainer: {max_epochs: 1}", encoding="utf-8")
    read = Plan.read(["a.yaml", "b.yaml"], ["--search.seeds=[4, 5]", "--trainer.devices=1"])
    assert (read.trials, read.seeds, read.space) == (5, [4, 5], {"lr": {"choices": [1, 2]}})


def test_a_grid_has_every_point_once_and_keys_only_where_they_apply() -> None:
    space = {
        "optimizer": ["SGD", "AdamW"],
        "momentum": {"choices": [0.0, 0.9], "when": {"optimizer": "SGD"}},
        "width": {"from": 1, "to": 7, "step": 3},
    }
    found = list(points(plan(space, sampler="grid", trials=None).space))
    pairs = [("SGD", 0.0), ("SGD", 0.9), ("AdamW", None)]
    assert [(p["optimizer"], p.get("momentum"), p["width"]) for p in found] == [
        (*pair, width) for pair in pairs for width in (1, 4, 7)
    ]
    assert plan(space, sampler="grid", trials=None).trials == 9
    assert plan(space, sampler="grid", trials=2).trials == 2


def test_a_study_of_seeds_is_one_trial_with_a_run_for_each_seed_and_fold() -> None:
    seeds = plan(seeds=[3, 4], folds="all", trials=None)
    assert seeds.trials == 1
    assert [name for name, _ in seeds.runs(2)] == ["seed_3_fold_0", "seed_3_fold_1", "seed_4_fold_0", "seed_4_fold_1"]
    assert seeds.runs(2)[1][1] == ["--seed_everything=3", "--data.fold=1"]


def test_values_are_typed_as_yaml() -> None:
    settings = {"data.augment": [], "a": None, "b": "x", "c": 0.1, "config": None}
    assert typed(settings) == ["--data.augment=[]", "--a=null", "--b=x", "--c=0.1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": [1]}, "search.space must hold dotted keys, got [1]"),
        ({"space": {"lr": {"from": 1, "to": 0.1}}}, "from must be less than to, got from 1 to 0.1"),
        ({"space": {"lr": {"from": 0, "to": 1, "log": True}}}, "must be above 0, got from 0"),
        ({"space": {"lr": {"from": "1e-3", "to": 1}}}, "write 1.0e-3"),
        ({"space": {"lr": {"from": float("nan"), "to": 1}}}, "must be a number, got nan"),
        ({"space": {"lr": {"from": 0, "to": 1, "step": 2}}}, "step must be in (0, 1], got 2"),
        ({"space": {"lr": {**LR, "step": 0.1}}}, "must not have both log and step"),
        ({"space": {"lr": {**LR, "lgo": 1}}}, "unknown lgo, did you mean log?"),
        ({"space": {"lr": []}}, "needs at least one choice"),
        ({"space": {"lr": [1, 2, 1]}}, "has the choice 1 twice"),
        ({"space": {"lr": 3}}, "must be a list of choices or {from, to, log, step, when}, got 3"),
        ({"space": {"config": ["nothing.yaml"]}}, "config nothing.yaml does not exist"),
        ({"space": {1: [1, 2]}}, "search.space must hold dotted keys, got 1"),
        ({"space": {"a": {"choices": [1], "when": 3}}}, "when must be {key: value}, got 3"),
        ({"space": {"data.init_args.fold": [0, 1]}}, "use search.folds"),
        ({"sampler": {"class_path": "optuna.samplers.A", "init_args": [1]}}, "class path of Optuna, got"),
        ({"space": {"seed_everything": [1]}}, "use search.seeds"),
        ({"space": {"data.fold": [0, 1]}}, "use search.folds"),
        ({"space": {"name": ["a"]}}, "use --name"),
        ({"space": {"a": {"choices": [1], "when": {"b": 1}}, "b": [1]}}, "b is no earlier key"),
        ({"space": {"b": [1], "a": {"choices": [1], "when": {"b": 2}}}}, "2 is no choice of b"),
        ({"space": {"lr": LR}, "sampler": "grid"}, "a grid needs choices or a step"),
        ({"space": {"lr": LR}, "trials": None}, "type --search.trials=20"),
        ({"sampler": "tep"}, "got 'tep', did you mean tpe?"),
        ({"prune": 3}, "must be none, median, hyperband or a class path"),
        ({"trials": 0}, "search.trials must be an integer of at least 1, got 0"),
        ({"seeds": [1, 1]}, "search.seeds must be a list of different integers"),
        ({"seeds": [-1]}, "search.seeds must be a list of different integers"),
        ({"folds": 5}, "search.folds must be all"),
        ({"monitor": "test/accuracy"}, "a test set chooses nothing"),
        ({"mode": "up"}, "search.mode must be max or min"),
        ({"confirm": {"top": 2}}, "search.confirm must be {top: K, seeds: [...]}"),
        ({"confirm": {"top": 2, "seeds": [0]}}, "must be new ones, got [0] of search.seeds"),
    ],
)
def test_a_wrong_plan_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        plan(**settings)
    assert message in str(error.value)


def test_an_unknown_key_of_search_is_refused() -> None:
    with pytest.raises(UserError, match=r"did you mean search\.trials"):
        Plan.read([], ["--search.trails=3"])


def test_a_huge_grid_is_refused() -> None:
    wide = {f"k{i}": list(range(50)) for i in range(4)}
    with pytest.raises(UserError, match="a grid of more than 100,000 points"):
        plan(wide, sampler="grid")
