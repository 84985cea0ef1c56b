"""Prune: remove the channels with the smallest weights from a trained net, and train it on by the run's own config."""

from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from src import UserError, require
from src.commands.outputs import leaves
from src.config.arguments import Options
from src.config.build import Experiment, build
from src.config.load import restore
from src.config.parser import import_path, parse
from src.protocols import LoadsRuns
from src.runs.summary import print_rows
from src.tasks import Task

UNUSED = {"Checkpoint", "EarlyStopping", "Monitor", "Pictures"}  # callbacks that only write files or stop a run
LAYERS = (nn.Linear, _ConvNd)
BLOCK = 8  # channels that kernels of the CPU compute at once, in each layer that is pruned
SETTINGS = "max_steps=-1 max_time=null logger=false enable_checkpointing=false num_sanity_val_steps=0"
SETTINGS += " fast_dev_run=false check_val_every_n_epoch=1 devices=1 num_nodes=1 strategy=auto"


def pruned(x: Experiment, options: Options, ratio: float, epochs: int) -> Experiment:
    """Return an experiment whose net has a share of its channels less, trained on for some epochs.

    It trains with the settings of the run: its optimizer, its schedule over these epochs, its augmentation and
    averaging of weights.
    """
    typed = [f"--trainer.{each}" for each in (*SETTINGS.split(), f"max_epochs={epochs}")]
    config = parse(replace(options, command="fit", settings=[*options.settings, *typed, "--test=false"]))
    given = config.trainer.callbacks or []
    given = given if isinstance(given, list) else [given]
    names = [{kind.__name__ for kind in import_path(each.class_path).__mro__} for each in given]
    config.trainer.callbacks = [each for each, name in zip(given, names, strict=True) if not UNUSED & name]
    fit = build(config, "fit", None, x.stored)
    fit.trainer.loggers = [DummyLogger()]
    restore(fit.task, x.stored, lambda task: task)
    if isinstance(fit.task, LoadsRuns):
        fit.task.trust_runs = options.trust
    data: Any = fit.data
    data.prepare_data()
    data.setup("fit")
    data.load_state_dict(x.stored[type(data).__qualname__])  # refuses another split
    counts = prune(fit.task, data.shape, ratio)
    print_rows([("pruned", f"{counts[0]:,} to {counts[1]:,} parameters; now trained on")])
    fit.task.train()
    if epochs:
        fit.trainer.fit(fit.task, datamodule=data)
    x.task, x.config.ckpt_path = fit.task.float().cpu(), None
    return x


def prune(task: Any, shape: tuple[int, ...], ratio: float) -> tuple[int, int]:
    """Remove a share of the channels of each layer but the last; return the numbers of parameters before and after.

    Channels that depend on each other, such as those of a residual branch and of what it is added to, are removed
    together, those whose weights have the smallest norm first; Fang et al., 2023, arXiv:2301.12900.
    """
    import torch_pruning

    net = task.net if isinstance(task, Task) else task
    example = torch.randn(2, *shape)
    net.float().eval()
    try:
        last, expected = last_layer(net, example)
        before = sum(p.numel() for p in net.parameters())
        importance = torch_pruning.importance.GroupMagnitudeImportance()
        counts = {each: channels(each) for each in net.modules() if isinstance(each, LAYERS)}
        shares = {each: 1 - kept(count, ratio) / count for each, count in counts.items()}
        settings: dict[str, Any] = {"pruning_ratio": ratio, "pruning_ratio_dict": shares, "ignored_layers": [last]}
        torch_pruning.pruner.BasePruner(net, example, importance, **settings).step()
        _, found = last_layer(net, example)
    except Exception as error:  # of a forward or a layer that depends on the number of channels
        text = " ".join(str(error).split())[:150]
        raise UserError(f"--prune: this net cannot be pruned ({type(error).__name__}: {text})") from error
    after = sum(p.numel() for p in net.parameters())
    require(found == expected, f"--prune: this net cannot be pruned: its outputs would be {found}, not {expected}")
    require(after < before, f"--prune: layers have too few channels to remove {ratio:.0%} of them")
    return before, after


def channels(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def kept(count: int, ratio: float) -> float:
    """Return how many channels of a layer stay: a multiple of BLOCK, or few ones as they are."""
    few = min(count, max(BLOCK, BLOCK * round(count * (1 - ratio) / BLOCK)))
    return few + 0.01 if few < count else few  # the library rounds down


def last_layer(net: nn.Module, example: Tensor) -> tuple[nn.Module, list[Any]]:
    """Return the layer with weights that is computed last, and the shapes of the outputs."""
    ran: list[nn.Module] = []
    layers = [each for each in net.modules() if isinstance(each, LAYERS)]
    handles = [each.register_forward_hook(lambda layer, *_: ran.append(layer)) for each in layers]
    try:
        with torch.no_grad():
            found = net(example)
    finally:
        for handle in handles:
            handle.remove()
    require(ran, "it has no linear or convolutional layers")
    return ran[-1], [tuple(each.shape) for _, each in leaves(found)]
