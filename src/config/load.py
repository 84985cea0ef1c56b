"""load_run: a trained module from a run folder, in a notebook or another program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from src import UserError
from src.config.arguments import Options
from src.config.checks import check_yaml
from src.config.parser import instantiate, parse
from src.protocols import Pretrained
from src.runs.checkpoint import check_weights, load_first_valid
from src.runs.folder import Run


def load_run(
    path: str | Path, checkpoint: Literal["best", "last"] = "best", root: str | Path | None = None, trust: bool = False
) -> tuple[Any, Any]:
    """Return the trained task of a run, in eval mode on the CPU, and its data module, with no data loaded yet.

    Changes nothing in the process: no seed, signal handler, warning filter or environment variable.

    Args:
        path: the run folder, such as runs/digits/version_0; a UserError if it cannot be loaded.
        checkpoint: if it cannot be loaded, another one of the run is used, with a warning.
        root: data folder to use instead of the config's.
        trust: whether the config may name code and write files that ``src.config.trust`` does not trust.
    """
    run = Run.find(Path(path))
    check_yaml(run.config)
    _, stored = load_first_valid(run.checkpoints(checkpoint))
    typed = [] if root is None else [f"--data.root={root}"]
    config = parse(Options("load_run", [str(run.config)], trust=trust, settings=typed))
    with torch.random.fork_rng(devices=[]):  # building the net draws weights, which are then replaced
        task, data, _ = instantiate(config, stored=True)
    key = type(data).__qualname__
    if data is not None and key in stored:
        data.load_state_dict(stored[key])
    double = str(config.trainer.precision) in ("64", "64-true")
    if isinstance(task, Pretrained):
        task.weights = None  # type: ignore[assignment]  # the checkpoint has them
    restore(task, stored, lambda each: each.double() if double else each)
    return task.eval(), data


def restore(task: Any, stored: dict[str, Any], convert: Callable[[Any], Any]) -> None:
    """Load the weights of a checkpoint into its task; ``convert`` is called with it before, to change its precision."""
    task.configure_model()
    task.on_load_checkpoint(stored)  # it may change the stored weights
    check_weights(task, stored)
    convert(task)
    try:
        task.load_state_dict(stored["state_dict"], strict=task.strict_loading)
    except RuntimeError as error:  # of a net that setup builds
        raise UserError(f"the checkpoint does not match the net: {' '.join(str(error).split())[:300]}") from None
