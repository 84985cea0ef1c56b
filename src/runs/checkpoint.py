"""Save checkpoints atomically, load them safely, and check that they match the model."""

import os
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn
from torch.nn.parameter import is_lazy

from src import UserError, replace_file, require

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, nn.Parameter, torch.dtype, torch.device)
HYPER_PARAMETERS = {LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY}
CONTENT = {"state_dict": dict, "epoch": int, "global_step": int, "pytorch-lightning_version": str, "callbacks": dict}
CONTENT |= {"loops": dict, "optimizer_states": list, "lr_schedulers": list, "train_means": dict, "warmup": list}
CONTENT |= {"module_values": dict, "masks": dict}
CLASS_WEIGHTS = ("loss.weight", "loss.pos_weight")  # the config's win over the checkpoint's
# hooks in which a module of another project may create parameters or change the weights that it loads
HOOKS = {"configure_model", "setup", "on_load_checkpoint", "load_state_dict", "_load_from_state_dict"}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replace a checkpoint file only once the new one is complete on disk, so a killed process leaves a valid file.

    A failed save only warns and keeps the older file. Non-finite parameters of the model are never saved; without a
    model, no non-finite value of the state dict is.
    """

    def __init__(self, model: LightningModule | None = None) -> None:
        self.model = model
        self.failed = ""  # why the latest save failed

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        for key in HYPER_PARAMETERS & checkpoint.keys():
            checkpoint[key] = {name: value for name, value in checkpoint[key].items() if is_plain(value)}
        checkpoint = without_numpy(checkpoint)
        weights = checkpoint["state_dict"]
        if self.model is not None:  # buffers may hold infinities, such as an attention mask
            weights = {name: weights[name] for name, _ in self.model.named_parameters() if name in weights}
        self.failed = "weights are not finite" if has_nonfinite(weights) else save_checkpoint(checkpoint, Path(path))
        if self.failed:
            final = Path(path).with_suffix(".ckpt")  # of best.next
            text = f"{final} was NOT saved: {self.failed}; training continues, the older file is kept"
            warnings.warn(text, stacklevel=2)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        return load_checkpoint(path, mmap=False)


def save_checkpoint(content: dict[str, Any], file: Path) -> str:
    """Write a checkpoint atomically; return the reason for a failure, or an empty string."""
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(exist_ok=True)  # not its parents: a deleted run folder must not come back
        with part.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        check_plain(part)
        replace_file(part, file)
        with suppress(PermissionError):  # Windows opens no folders
            folder = os.open(file.parent, os.O_RDONLY)
            os.fsync(folder)  # makes the new name durable
            os.close(folder)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save hides the OSError
        if not isinstance(cause, OSError):
            raise
        return cause.strerror or str(cause)
    finally:
        part.unlink(missing_ok=True)
    return ""


def check_plain(file: Any) -> None:
    """Refuse a file or stream of torch.save that ``load_checkpoint`` would refuse, without loading it."""
    if unsafe := torch.serialization.get_unsafe_globals_in_checkpoint(file):
        raise UserError(
            f"a checkpoint would contain {', '.join(unsafe)}, but only tensors and plain values can be loaded safely: "
            "store something plain, such as str(value), in on_save_checkpoint or state_dict"
        )


def left_out(*owners: Any) -> list[tuple[str, str]]:
    """Return a note that names the hyperparameters which checkpoints leave out, such as nets, if there are any."""
    values = [item for owner in owners for item in getattr(owner, "hparams", {}).items()]
    unfit = ", ".join(name for name, value in values if not is_plain(value))
    return [("note", f"checkpoints leave out the hyperparameters {unfit}")] if unfit else []


def is_plain(value: Any) -> bool:
    """Tell whether a value can be loaded safely: a tensor, number, text, or a collection of these."""
    if isinstance(value, list | tuple | dict | set):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return type(value) in (list, tuple, dict, set, OrderedDict) and all(map(is_plain, inner))
    return type(value) in PLAIN or isinstance(value, np.generic)


def without_numpy(value: Any) -> Any:
    """Replace NumPy's numbers, such as a learning rate that a schedule computes with ``np.cos``, by those of Python."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple, set):
        return type(value)(map(without_numpy, value))
    return {key: without_numpy(each) for key, each in value.items()} if type(value) is dict else value


def has_nonfinite(weights: dict[str, Any]) -> bool:
    floats = [w for w in weights.values() if isinstance(w, torch.Tensor) and (w.is_floating_point() or w.is_complex())]
    # the norm is fast, but may overflow although every weight is finite
    return not all(isfinite(w.norm()) or bool(w.isfinite().all()) for w in floats)


def load_checkpoint(path: str | Path, to_resume: bool = False, mmap: bool = True, whole: bool = True) -> dict[str, Any]:
    """Return the content of a checkpoint on the CPU; with mmap, tensors stay on disk until they are used."""
    file = Path(path)
    if (file / "meta.pt").is_file():  # a folder of shards, which the strategy loads: here without weights
        return {"state_dict": {}, "optimizer_states": []} | load_checkpoint(file / "meta.pt", mmap=mmap, whole=False)
    if not file.is_file():
        near = ", ".join(sorted(map(str, file.parent.glob("*.ckpt"))))
        raise UserError(f"checkpoint {path} does not exist{'; found ' if near else ''}{near}")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch.save writes checksums, but torch.load does not check them
        mmap = mmap and os.name != "nt"  # Windows replaces no file that is mapped
        stored: Any = None if damaged else torch.load(file, map_location="cpu", mmap=mmap, weights_only=True)
    except Exception as error:  # zipfile and pickle raise anything on damaged files
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise UserError(f"checkpoint {path} is damaged or holds more than tensors and plain values ({cause})") from None
    require(not damaged, f"checkpoint {path} is damaged: wrong checksum of {damaged}")
    needed = {"pytorch-lightning_version"} | ({"state_dict"} if whole else set())
    valid = isinstance(stored, dict) and needed <= stored.keys()
    require(valid, f"{path} is not a Lightning checkpoint: it has no state_dict or no version")
    wrong = [name for name, kind in CONTENT.items() if not isinstance(stored.get(name, kind()), kind)]
    require(not wrong, f"checkpoint {path} is damaged: {', '.join(wrong)} is of another type")
    resumable = not to_resume or {"loops", "optimizer_states"} <= stored.keys()
    require(resumable, f"{path} holds only weights: it can be tested, but training cannot resume from it")
    return stored


def load_first_valid(files: Sequence[str | Path], to_resume: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the path and content of the first file that can be loaded; warn about those before it."""
    for file, older in pairwise(files):
        try:
            return str(file), load_checkpoint(file, to_resume)
        except UserError as error:
            warnings.warn(f"{error}; using {older} instead", stacklevel=2)
    return str(files[-1]), load_checkpoint(files[-1], to_resume)


def check_weights(model: LightningModule, stored: dict[str, Any]) -> None:
    """Refuse weights whose names or shapes differ from the model's."""
    states = (model.state_dict(), stored["state_dict"])
    if not model.strict_loading or loads_later(model) or any(map(is_lazy, states[0].values())):
        return  # the net does not exist yet, or need not match
    own, theirs = (
        {key: tuple(getattr(w, "shape", ())) for key, w in state.items() if key not in CLASS_WEIGHTS}
        for state in states
    )
    faults = {
        "missing": [key for key in own if key not in theirs],
        "unexpected": [key for key in theirs if key not in own],
        "differently shaped": [f"{k} {theirs[k]}, now {own[k]}" for k in own if k in theirs and theirs[k] != own[k]],
    }
    names = {kind: ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "") for kind, keys in faults.items()}
    shown = [f"{len(keys)} {kind} keys ({names[kind]})" for kind, keys in faults.items() if keys]
    require(not shown, f"the checkpoint does not match this net: {'; '.join(shown)}")


def loads_later(model: LightningModule) -> bool:
    """Tell whether a module may still create parameters, or change weights while it loads them."""
    ours = ("torch", "lightning.", "src.tasks.base", "src.tasks.classifier")
    kinds = {kind for each in model.modules() for kind in type(each).__mro__ if not kind.__module__.startswith(ours)}
    return any(HOOKS & vars(kind).keys() for kind in kinds)


def epochs_done(stored: dict[str, Any]) -> int:
    try:
        return stored["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] if stored else 0
    except (KeyError, TypeError):
        raise UserError("the checkpoint does not tell how many epochs are done: start a new run") from None
