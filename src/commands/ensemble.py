"""Several runs as one: check that they fit together, choose members, average their predictions or weights."""

from collections.abc import Callable
from copy import deepcopy
from math import gcd, inf, isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins import Precision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from src import require
from src.config.build import Experiment
from src.config.load import restore
from src.protocols import Averageable, ImageData
from src.runs.predictions import let_forward_predict
from src.runs.summary import print_rows
from src.tasks import Task
from src.tasks.comparison import Comparison
from src.tasks.ensemble import Ensemble

Member = tuple[Any, Precision]  # a task and its precision plugin
ROUNDS = 5  # of the greedy choice for each member; a round adds a member
STATES = {"class_names": "classes", "shape": "image shape", "split_hash": "split", "test_hash": "test split"}
STATES |= {"mean": "normalization", "std": "normalization"}  # of a data module in checkpoints


def combine(members: list[Experiment], command: str, greedy: bool, soup: bool) -> Experiment:
    """Return the first experiment without its run folder, and with an ensemble of all as its task.

    A soup is one more member and the only one with a weight. Members without weight are tested, but do not predict.
    """
    x, names = members[0], [str(each.run.path) for each in members if each.run]
    for each, name in zip(members, names, strict=True):
        check_member(x, each, (names[0], name), command == "test" or greedy or soup)
        if soup:
            check_equal_nets(x.task, each.task, (names[0], name))
    for each in members:
        restore(each.task, each.stored, each.trainer.precision_plugin.convert_module)
        let_forward_predict(each.task)
    pool: list[Member] = [(each.task, each.trainer.precision_plugin) for each in members]
    x.trainer.strategy.precision_plugin = Precision()  # each member uses its own
    counts = choose(x, pool, soup) if greedy else [1] * len(pool)
    if greedy and x.trainer.is_global_zero:
        chosen = [(f"{count} x", name) for count, name in zip(counts, names, strict=True) if count]
        print_rows([("chosen", f"by {pool[0][0].monitor[0]}"), *chosen, ("", "")])
    if soup:
        pool.append(make_soup(x, [member for member, count in zip(pool, counts, strict=True) if count]))
        counts = [0] * len(members) + [1]
    used = [i for i, count in enumerate(counts) if count or command == "test"]
    x.task = ensemble(x, [pool[i] for i in used], [counts[i] for i in used])
    x.run, x.config.ckpt_path = None, None
    return x


def ensemble(x: Experiment, pool: list[Any], counts: list[int]) -> Ensemble:
    tasks, precisions = ([*each] for each in zip(*pool, strict=True))
    weights, data_state = [n / sum(counts) for n in counts], x.stored.get(type(x.data).__qualname__)
    if not isinstance(tasks[0], Task):
        return Ensemble(tasks, precisions, weights, tasks[0], data_state)
    averaged = deepcopy(tasks[0], {id(tasks[0].net): nn.Identity()})
    average_state(averaged, tasks, weights)
    return Comparison(tasks, precisions, weights, averaged, data_state)


def check_member(first: Experiment, x: Experiment, names: tuple[str, str], needs_tasks: bool) -> None:
    """Refuse a member that cannot be averaged, or that is of another kind or of other data than the first."""
    single = Path(str(x.config.ckpt_path)).is_relative_to(names[1])
    require(single, "--ckpt_path names one checkpoint, but several runs use the best of each: leave it out")
    kinds = [type(each.task).__name__ for each in (first, x)]
    fits = isinstance(x.task, Averageable) if isinstance(x.task, Task) else not needs_tasks
    require(fits, f"no ensemble: {names[1]} is of {kinds[1]}, whose predictions have no common scale")
    task: Any = x.task
    known = not isinstance(task, Task) or task.monitor[0].removeprefix("val/") in task.test_metrics.keys(keep_base=True)
    require(known, f"no ensemble: {kinds[1]} of {names[1]} does not monitor one of its test_metrics")
    monitors = [getattr(each.task, "monitor", None) for each in (first, x)]
    require(monitors[0] == monitors[1], f"no ensemble: {names[0]} is of {kinds[0]}, but {names[1]} of {kinds[1]}")
    for what, values in shared_state(first, x):
        got = " and ".join(f"{str(value)[:60]} in {name}" for value, name in zip(values, names, strict=True))
        require(is_close(*values), f"no ensemble: members need the same {what}, got {got}")


def shared_state(*members: Experiment) -> list[tuple[str, list[Any]]]:
    """Return name and values of what two members must have in common: of other data modules, all settings."""
    data = [("data module", [f"{type(each.data).__module__}.{type(each.data).__qualname__}" for each in members])]
    if not all(isinstance(each.data, ImageData) for each in members):
        return [*data, ("data settings", [str(each.config.data) for each in members])]
    states = [each.stored.get(type(each.data).__qualname__, {}) for each in members]
    return data + [(name, [state.get(key) for state in states]) for key, name in STATES.items()]


def is_close(a: Any, b: Any) -> bool:
    """Tell whether values are equal, numbers to within rounding, which depends on the machine."""
    numbers = all(isinstance(each, list) and each and isinstance(each[0], float) for each in (a, b))
    return a == b or (numbers and len(a) == len(b) and np.allclose(a, b))


def check_equal_nets(first: Any, task: Any, names: tuple[str, str]) -> None:
    """Refuse nets whose parameters, buffers or layers differ."""
    layouts: list[dict[str, str]] = []
    for net in (first.net, task.net):
        layouts.append({name: f"{tuple(value.shape)} {value.dtype}" for name, value in net.state_dict().items()})
        layouts[-1] |= {f"{name} (layer)": type(layer).__qualname__ for name, layer in net.named_modules()}
    for key in layouts[0] | layouts[1]:
        a, b = (layout.get(key, "none") for layout in layouts)
        require(a == b, f"--soup needs equal nets, but {key} differs: {a} in {names[0]}; {b} in {names[1]}")


def choose(x: Experiment, pool: list[Member], soup: bool) -> list[int]:
    """Return how often each member counts, chosen on the validation split by the metric that the task monitors."""
    task: Any = x.task
    name, mode = task.monitor
    soft, targets = validation_predictions(x, pool)

    def score(soft: Tensor) -> float:
        metric = task.val_metrics[name.removeprefix("val/")].clone()
        metric.distributed_available_fn = lambda: False  # each process has the predictions of all
        metric.update(*task.compare(soft, targets))
        value = float(metric.compute())
        return -inf if isnan(value) else value if mode == "max" else -value

    def score_soup(members: list[int]) -> float:
        return score(validation_predictions(x, [make_soup(x, [pool[i] for i in members])])[0][:, 0])

    return greedy_soup([*map(score, soft.unbind(1))], score_soup) if soup else greedy_choice(soft, score)


def validation_predictions(x: Experiment, pool: list[Member]) -> tuple[Tensor, Tensor]:
    """Return the predictions of each member, (N, members, ...), and the targets of the validation split."""
    task: Any = ensemble(x, pool, [1] * len(pool))
    x.trainer.validate(task, datamodule=x.data, verbose=False)
    return task.kept


def greedy_choice(soft: Tensor, score: Callable[[Tensor], float]) -> list[int]:
    """Return how often each member counts in the average of predictions (N, members, ...) that scores highest.

    Caruana et al., 2004, doi:10.1145/1015330.1015432: starting with none, add the member, also again, whose addition
    scores highest; return the best average on the way. Ties go to the member used least, and to more members.
    """
    counts, best, total = [0] * soft.shape[1], ([0] * soft.shape[1], -inf), torch.zeros_like(soft[:, 0])
    for n in range(1, ROUNDS * len(counts) + 1):
        scores = [score((total + each) / n) for each in soft.unbind(1)]
        i = max(range(len(scores)), key=lambda k: (scores[k], -counts[k]))
        total, counts = total + soft[:, i], [count + (k == i) for k, count in enumerate(counts)]
        best = (counts, scores[i]) if scores[i] >= best[1] else best
    return [count // gcd(*best[0]) for count in best[0]]


def greedy_soup(scores: list[float], score: Callable[[list[int]], float]) -> list[int]:
    """Return which members a soup uses, as 0 or 1; Wortsman et al., 2022, arXiv:2203.05482, algorithm 1.

    From the member that scores highest to the lowest, each is added unless the soup then scores lower.
    """
    first, *others = sorted(range(len(scores)), key=lambda i: -scores[i])
    used, best = [first], scores[first]
    for i in others:
        if (value := score([*used, i])) >= best:
            used, best = [*used, i], value
    return [int(i in used) for i in range(len(scores))]


def make_soup(x: Experiment, pool: list[Member]) -> Member:
    """Return a task with the mean weights of others, in the precision of the first.

    Running statistics of batch norm are no weights: those of an averaged net are measured again, on the batches of one
    training epoch, because the mean of the members' is not what its layers see. Integers are those of the first.
    """
    tasks, precision = [task for task, _ in pool], pool[0][1]
    soup: Any = deepcopy(tasks[0])
    average_state(soup, tasks, [1 / len(tasks)] * len(tasks))
    if len(tasks) > 1 and any(isinstance(each, _BatchNorm) for each in soup.net.modules()):
        data: Any = x.data
        data.prepare_data()
        data.setup("fit")
        data.trainer = None  # each process measures all batches
        device = x.trainer.strategy.root_device
        with precision.forward_context():
            update_bn(map(precision.convert_input, data.train_dataloader()), soup.net.to(device), device)
    return soup, precision


@torch.no_grad()
def average_state(task: nn.Module, members: list[nn.Module], weights: list[float]) -> None:
    """Set parameters and buffers to the weighted mean over members; integers, such as counters, stay the task's own."""
    states = [member.state_dict() for member in members]
    for name, value in task.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and all(name in state for state in states):
            mean = sum(weight * state[name].double() for weight, state in zip(weights, states, strict=True) if weight)
            value.copy_(mean)
