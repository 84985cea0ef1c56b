"""Masks: what Lightning's callbacks freeze and prune, which its checkpoints lack."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BaseFinetuning, ModelPruning
from torch.nn.utils import prune


def find_masks(module: LightningModule) -> dict[str, Any]:
    """Return what must be restored in a resumed run, where the callbacks start with a module as it was built."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    pruned = [key.removesuffix("_mask") for key in tensors if key.endswith("_mask")]
    return {
        "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
        "untracked": [name for name, each in module.named_modules() if not getattr(each, "track_running_stats", True)],
        "pruned": {
            key: (tensors[f"{key}_mask"], tensors[f"{key}_orig"].detach()) for key in pruned if f"{key}_orig" in tensors
        },
    }


def restore_masks(callbacks: Sequence[Callback], module: LightningModule, masks: dict[str, Any]) -> None:
    """Restore the result of ``find_masks``: a finetuning callback has frozen again what it had unfrozen."""
    if any(isinstance(each, BaseFinetuning) for each in callbacks):
        for name, p in module.named_parameters():
            p.requires_grad = name not in masks["frozen"]
        for name, each in module.named_modules():
            if hasattr(each, "track_running_stats"):
                each.track_running_stats = name not in masks["untracked"]
    for callback in [each for each in callbacks if isinstance(each, ModelPruning)]:
        for key, (mask, values) in masks["pruned"].items():
            path, _, name = key.rpartition(".")
            layer = module.get_submodule(path)
            prune.custom_from_mask(layer, name, mask.to(module.device))
            weight = getattr(layer, f"{name}_orig")
            weight.data.copy_(values)
            initial = (callback._original_layers or {}).get(id(layer))
            if initial and module.device.type == "cpu":  # where Lightning's reset lets both share their memory
                getattr(initial["data"], name).data = weight.data
