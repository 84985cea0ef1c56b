"""Trained weights: load them from a file, a run folder, torchvision or timm; the layers that are kept or frozen."""

import re
from collections import Counter
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchvision.models import get_weight

from src import UserError, compile_pattern, require

State = dict[str, Tensor]
Account = dict[str, list[str]]  # names of tensors by what became of them
LEFT_OUT = {"other shape": "of another shape, not loaded", "missing": "not in the file", "unexpected": "not in the net"}


def load_weights(net: nn.Module, weights: str, rename: dict[str, str] | Literal["order"] | None = None) -> Account:
    """Load the tensors that have the name and shape of a tensor of the net; the net keeps its others.

    The arguments are those of ``src.tasks.Task``. Return the names of tensors that were "loaded", "renamed" for it, of
    "other shape", "missing" in ``weights``, or "unexpected" there.
    """
    net = unwrap(net)
    own, stored = only_tensors(net.state_dict()), read_weights(weights)
    if rename == "order":
        own, stored = without_counters(own), without_counters(stored)
        sources = pair_by_order(own, stored, weights)
    else:
        sources = pair_by_name(own, stored, rename or {})
    fits = {name: stored[source] for name, source in sources.items() if same_shape(own[name], stored[source])}
    names = " and ".join(next(iter(state), "nothing") for state in (stored, own))
    text = f"nothing fits this net (first names: {names}): check the net, or set model.rename"
    require(any(is_lazy(own[name]) or own[name].ndim > 1 for name in fits), f"weights {weights}: {text}")
    net.load_state_dict(fits, strict=False)
    used = {*sources.values()}
    return {
        "loaded": [*fits],
        "renamed": [f"{sources[name]} to {name}" for name in fits if sources[name] != name],
        "other shape": [name for name in sources if name not in fits],
        "missing": [name for name in own if name not in sources],
        "unexpected": [name for name in stored if name not in used],
    }


def describe(weights: str, account: Account) -> str:
    """Return lines of at most 70 characters: how many tensors became what, and their first names."""
    where = weights if len(weights) <= 38 else f"...{weights[-35:]}"
    total = sum(len(account[kind]) for kind in ("loaded", "other shape", "missing"))
    lines = [f"{len(account['loaded'])} of {total} tensors loaded from {where}"]
    others = [(LEFT_OUT.get(kind, kind), names) for kind, names in account.items() if names and kind != "loaded"]
    lines += [f"{len(names)} {text}: {', '.join(names)}" for text, names in others]
    return "\n".join(shorten(line, 70, placeholder=" ...") for line in lines)


def unwrap(net: nn.Module) -> nn.Module:
    """Return the module that holds all tensors of a net: not a module around it, whose name files do not have."""
    inner = [child for child in net.children() if child.state_dict()]
    whole = len(inner) == 1 and len(inner[0].state_dict()) == len(net.state_dict())
    return unwrap(inner[0]) if whole else net


def only_tensors(state: dict[Any, Any]) -> State:
    return {name: each for name, each in state.items() if isinstance(name, str) and isinstance(each, Tensor)}


def without_counters(state: State) -> State:
    """Leave out the numbers of batches that batch norms have seen, which older files lack."""
    return {name: each for name, each in state.items() if not name.endswith("num_batches_tracked")}


def same_shape(own: Tensor, stored: Tensor) -> bool:
    return is_lazy(own) or own.shape == stored.shape  # a lazy tensor takes the shape of the one that is loaded


def pair_by_name(own: State, stored: State, rename: dict[str, str]) -> dict[str, str]:
    """Map names of the net to stored names: these are renamed, and lose the prefix with which most of them match."""
    sources = {name: name for name in stored}
    for pattern, replacement in rename.items():
        compiled = compile_pattern("rename", pattern)
        closest = ", ".join(get_close_matches(pattern, sources, n=3, cutoff=0))
        require(any(map(compiled.search, sources)), f"rename: {pattern!r} matches no name; closest: {closest}")
        renamed: dict[str, str] = {}
        for name, source in sources.items():
            try:
                new = compiled.sub(replacement, name)
            except (re.error, IndexError) as error:
                raise UserError(f"rename: cannot replace {pattern!r} by {replacement!r} ({error})") from None
            require(new not in renamed, f"rename: {pattern!r} renames {renamed.get(new)} and {source} to {new}")
            renamed[new] = source
        sources = renamed
    ends = [(name, match.end()) for name in sources for match in re.finditer(r"^|\.", name)]
    matches = Counter(name[:end] for name, end in ends if name[end:] in own)
    most = [start for start in matches if matches[start] == max(matches.values())]
    prefix = "" if "" in most or not most else most[0]
    choice = f"choose one, such as with model.rename={{'^{re.escape(prefix)}': ''}}"
    require(not prefix or len(most) == 1, f"the weights of {' and '.join(most)} fit equally well: {choice}")
    return {name: sources[prefix + name] for name in own if prefix + name in sources}


def pair_by_order(own: State, stored: State, weights: str) -> dict[str, str]:
    """Map names of the net to stored names by position; refuse other shapes, except those of the last layer."""
    head = [*own][-1].rpartition(".")[0] if own else ""
    for name, source in zip_longest(own, stored):
        paired = name is not None and source is not None
        if not paired or not (name.rpartition(".")[0] == head or same_shape(own[name], stored[source])):
            ours, theirs = (
                f"{key} {tuple(state[key].shape)}" if key else "no more"
                for key, state in ((name, own), (source, stored))
            )
            difference = f"the net has {ours}, the file has {theirs}"
            raise UserError(f"weights {weights}: order needs equal shapes, but {difference}: check the net")
    return dict(zip(own, stored, strict=True))


def read_weights(weights: str) -> State:
    """Return the tensors of a file or run folder, or of the weights that torchvision or timm know by this name."""
    path = Path(weights).expanduser()
    if path.is_dir():
        files = [path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
        path = next((file for file in files if file.is_file()), path)
        require(path.is_file(), f"weights {weights}: no checkpoints/best.ckpt there; name a run folder or a file")
    if not path.is_file():
        return download(weights)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # optional
        else:
            load_file = partial(torch.load, map_location="cpu", weights_only=True)
        content: Any = load_file(path)
    except ImportError:
        raise UserError("safetensors is not installed: run make extras") from None
    except Exception as error:  # pickle raises anything
        remedy = "if you trust the file, load it in Python and save its state_dict()"
        raise UserError(f"weights {weights}: cannot be read as tensors ({type(error).__name__}): {remedy}") from None
    require(isinstance(content, dict), f"weights {weights}: must hold a state dict, got a {type(content).__name__}")
    held = {key: only_tensors(value) for key, value in content.items() if isinstance(value, dict)}
    named = held.get("state_dict") or held.get("model")
    return named or max([only_tensors(content), *held.values()], key=len)  # or whatever holds the most tensors


def download(weights: str) -> State:
    """Return the tensors that torchvision or timm have under a name; both keep what they downloaded."""
    name = weights.removeprefix("timm/")
    try:
        if re.fullmatch(r"\w+_Weights\.\w+", weights):
            return get_weight(weights).get_state_dict(progress=False, check_hash=True)
        if find_spec("timm") is not None:
            import timm  # optional

            if timm.is_model(name):
                with torch.random.fork_rng(devices=[]):  # it draws the weights that it then replaces
                    return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # of a name, a network or a disk
        reason = " ".join(str(error).split())[:150]
        text = f"cannot be found or downloaded ({type(error).__name__}: {reason}); a file can be named instead"
        raise UserError(f"weights {weights}: {text}") from None
    require(find_spec("timm") or name == weights, f"weights {weights}: timm is not installed: run make extras")
    expected = "a file, a run folder, a name of torchvision (ResNet18_Weights.DEFAULT) or of timm (timm/resnet18)"
    raise UserError(f"weights {weights} does not exist: expected {expected}")


class Backbone:
    """All layers of a task's net but the last one that has parameters; or the module that the task calls backbone."""

    def __get__(self, task: Any, kind: Any) -> nn.Module:  # no __set__, so that a task may have its own
        if (own := dict(task.named_children()).get("backbone")) is not None:
            return own
        layers = [layer for layer in task.net.modules() if [*layer.parameters(recurse=False)]]
        for i, layer in enumerate(layers):
            if [*layer.children()]:  # only its own parameters, such as a class token
                layers[i] = nn.Module()
                for name, p in layer.named_parameters(recurse=False):
                    layers[i].register_parameter(name, p)
        return nn.ModuleList(layers[:-1])
