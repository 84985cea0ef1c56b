"""Checkpoints: written whole, read safely, and compared with the net that is to take their weights."""

import os
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from io import BytesIO
from itertools import zip_longest
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.model_helpers import is_overridden

from src import UserError


class Durable(TorchCheckpointIO):
    """A file is replaced when the new one is on the disk, whole: a process that is killed leaves the one or the other.

    A save that fails costs a warning, not the run, and no older file; so does one of weights that are not finite.

    Args:
        model: whose parameters are the weights; by default all that is stored is looked at.
    """

    def __init__(self, model: LightningModule | None = None) -> None:
        self.model = model
        self.failed = ""  # why the last save failed

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        weights = checkpoint["state_dict"]
        if self.model is not None:  # a buffer may well hold an infinity, such as a mask
            weights = {name: weights[name] for name, _ in self.model.named_parameters() if name in weights}
        self.failed = "weights are not finite" if spoilt(weights) else write(checkpoint, Path(path))
        if self.failed:
            path = Path(path).with_suffix(".ckpt")  # from best.next
            warnings.warn(f"{path} NOT saved: {self.failed}; training goes on, an older file is kept", stacklevel=2)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        return read(path, mmap=False)


def write(content: dict[str, Any], file: Path) -> str:
    """Return why a file could not be written, or nothing. It is first written beside its place, on the same disk."""
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        check_plain(part)
        part.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)  # of the new name
        os.close(folder)
    except UserError:
        part.unlink()
        raise
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save hides it
        if not isinstance(cause, OSError):
            raise
        part.unlink(missing_ok=True)
        return cause.strerror or str(cause)
    return ""


def check_plain(file: Any) -> None:
    """Refuse what ``read`` would: other content than tensors and plain values. Nothing is loaded.

    Args:
        file: path of what torch.save wrote, or a stream.

    Raises:
        UserError: with the names of the types.
    """
    if odd := torch.serialization.get_unsafe_globals_in_checkpoint(file):
        raise UserError(
            f"a checkpoint would hold {', '.join(odd)}, but only tensors and plain values are ever loaded: store "
            "something plain, such as str() of it, in on_save_checkpoint or state_dict"
        )


def check_hyper_parameters(*owners: Any) -> None:
    """Refuse before training what ``self.save_hyperparameters()`` would make checkpoints hold.

    Raises:
        UserError: with the first that is not plain.
    """
    stored = [(owner, name, value) for owner in owners for name, value in dict(getattr(owner, "hparams", {})).items()]
    for owner, name, value in stored:
        stream = BytesIO()
        try:
            torch.save(value, stream)
            stream.seek(0)
            check_plain(stream)
        except (UserError, pickle.PicklingError, AttributeError, TypeError):
            raise UserError(
                f"save_hyperparameters of {type(owner).__name__}: {name} is a {type(value).__name__}, and checkpoints "
                f"hold tensors and plain values alone: type self.save_hyperparameters(ignore=[{name!r}])"
            ) from None


def spoilt(weights: dict[str, Any]) -> bool:
    """Tell whether a number among the weights is not finite; a norm is quick, but overflows before the numbers do."""
    floats = [w for w in weights.values() if isinstance(w, torch.Tensor) and (w.is_floating_point() or w.is_complex())]
    return not all(isfinite(w.norm()) or bool(w.isfinite().all()) for w in floats)


def read(path: str | Path, to_continue: bool = False, mmap: bool = True) -> dict[str, Any]:
    """Return the content of a checkpoint: plain values and tensors, which with mmap stay on disk until they are used.

    Raises:
        UserError: if it is absent, damaged, or no checkpoint of Lightning's.
    """
    file = Path(path)
    if not file.is_file():
        near = sorted(str(f) for f in file.parent.glob("*.ckpt"))
        raise UserError(f"checkpoint {path} does not exist{'; there are: ' + ', '.join(near) if near else ''}")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch.save writes a checksum for each record; torch.load does not look at it
        stored = None if damaged else torch.load(file, map_location="cpu", mmap=mmap, weights_only=True)
    except Exception as error:  # what a damaged file makes zipfile and pickle raise is anything
        raise UserError(
            f"checkpoint {path} is damaged or holds more than tensors and plain values ({reason(error)})"
        ) from None
    if damaged:
        raise UserError(f"checkpoint {path} is damaged: the checksum of {damaged} is wrong")
    if not isinstance(stored, dict) or not {"state_dict", "pytorch-lightning_version"} <= stored.keys():
        raise UserError(f"{path} is not a checkpoint of Lightning's: it has no state_dict or no version")
    if to_continue and not {"loops", "optimizer_states"} <= stored.keys():
        raise UserError(f"{path} holds weights only: it can be tested, but training cannot go on from it")
    return stored


def first_whole(files: Sequence[str | Path], to_continue: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the first file that can be read, and its content; warn of those before it."""
    for file, older in zip_longest(files, files[1:]):
        try:
            return str(file), read(file, to_continue)
        except UserError as error:
            if older is None:
                raise
            warnings.warn(f"{error}; taking {older} instead", stacklevel=2)
    raise AssertionError("there is at least one file")


CLASS_WEIGHTS = ("loss.weight", "loss.pos_weight")  # those of the config count, where it has any


def check_weights(model: LightningModule, stored: dict[str, Any]) -> None:
    """Refuse weights of another net.

    Raises:
        UserError: with the first keys that are missing, unexpected or of another shape.
    """
    if is_overridden("configure_model", model) or not model.strict_loading:
        return  # the net is not there yet, or need not match
    own, theirs = (
        {key: tuple(value.shape) for key, value in state.items() if key not in CLASS_WEIGHTS}
        for state in (model.state_dict(), stored["state_dict"])
    )
    faults = {
        "missing": [key for key in own if key not in theirs],
        "unexpected": [key for key in theirs if key not in own],
        "of another shape": [f"{k} {theirs[k]}, now {own[k]}" for k in own if k in theirs and theirs[k] != own[k]],
    }
    shown = [
        f"{len(keys)} {kind} ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})"
        for kind, keys in faults.items()
        if keys
    ]
    if shown:
        raise UserError(f"the checkpoint is of another net; keys {'; '.join(shown)}")


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
