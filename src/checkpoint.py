"""Checkpoints: read safely, and compared with the net that is to take their weights."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from src import UserError


def read(path: str | Path, to_continue: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint: plain values and tensors, which stay on disk until they are used.

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
        stored = None if damaged else torch.load(file, map_location="cpu", mmap=True, weights_only=True)
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
