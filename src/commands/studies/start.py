"""The start of a study: its config, metric and space are checked before the first trial."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from src import UserError, require
from src.commands.studies.plan import Plan, typed
from src.commands.studies.record import Study
from src.commands.studies.results import publish
from src.commands.studies.sampling import make_pruner, make_sampler
from src.commands.studies.space import applies
from src.commands.studies.storage import without_password
from src.config.arguments import Options
from src.config.build import give_outputs, infer_num_classes
from src.config.checks import check_training
from src.config.parser import instantiate, parse, plain_config, to_yaml
from src.engine.checkpoints import better_when
from src.engine.progress import own_monitor


def start(options: Options, plan: Plan, folder: Path, url: str | None) -> Study:
    """Return the study of a folder, created if it is new, after every setting of its space was parsed."""
    config = parse(options)
    check_training(config.trainer, config.name)
    base = plain_config(config)
    data = infer_num_classes(config)
    give_outputs(config.model.get("init_args") or Namespace())
    task, data, _ = instantiate(config, data=data)
    own, own_mode = own_monitor(task)
    monitor = plan.monitor or config.best.monitor or own
    require(monitor, "search.monitor must name the validation metric to optimize, such as val/loss")
    mode = plan.mode or config.best.mode or (own_mode if monitor == own else better_when(monitor))
    require(mode, f"whether a higher or a lower {monitor} is better is unknown: set search.mode to max or min")
    folds = count_folds(data) if plan.folds else 1
    for point in extremes(plan):
        check_point(options, point)
    make_sampler(plan)
    make_pruner(plan)
    study = Study(folder, plan, url)
    known = {"search": plan.fixed(), "monitor": monitor, "mode": mode, "folds": folds}
    study.create({**known, "storage": without_password(url), "base": base})
    base["best"] |= {"monitor": monitor, "mode": mode}
    publish(folder / "base.yaml", to_yaml(base | {"test": False}))
    return study


def count_folds(data: Any) -> int:
    """Return the number of folds of a data module, which may depend on its samples or groups."""
    needs = "search.folds needs a data module that divides its training set into folds"
    require(hasattr(data, "num_folds"), needs)
    data.prepare_data()
    data.setup("fit")
    require(data.num_folds, f"{needs}, got one with a separate validation set")
    return data.num_folds


def extremes(plan: Plan) -> list[dict[str, Any]]:
    """Return as few points of a space as hold every choice and both ends of each range."""
    points: list[dict[str, Any]] = []
    for key, entry in plan.space.items():
        for value in entry.get("choices") or [entry["from"], entry["to"]]:
            if not any(key in point and point[key] == value for point in points):
                points.append(complete(plan, {**conditions(plan, key), key: value}))
    return points


def conditions(plan: Plan, key: str) -> dict[str, Any]:
    """Return a value for each key on which a key depends."""
    found: dict[str, Any] = {}
    for other, values in plan.space[key].get("when", {}).items():
        found |= conditions(plan, other) | {other: values[0] if isinstance(values, list) else values}
    return found


def complete(plan: Plan, fixed: dict[str, Any]) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for key, entry in plan.space.items():
        if key in fixed or applies(entry, point):
            point[key] = fixed[key] if key in fixed else (entry.get("choices") or [entry["from"]])[0]
    return point


def check_point(options: Options, point: dict[str, Any]) -> None:
    """Parse the settings of a trial; a refused one is named as part of the space."""
    chosen = typed(point)
    files = [each.removeprefix("--config=") for each in chosen if each.startswith("--config=")]
    others = [each for each in chosen if not each.startswith("--config=")]
    try:
        parse(replace(options, config=options.config + files, settings=options.settings + others, chosen=others))
    except UserError as error:
        raise UserError(f"search.space, at {' '.join(chosen)}: {error}") from None
