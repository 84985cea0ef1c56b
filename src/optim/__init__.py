"""Optimizers and schedules beside those of ``torch.optim``, and which parameter gets which settings.

Add a schedule: subclass RunLR and implement ``factor``. Add an optimizer: subclass torch.optim.Optimizer. Name the
class in a YAML.
"""

from src.optim.configure import optimizer_and_schedule, with_warmup
from src.optim.groups import param_groups
from src.optim.muon import MuonSGD
from src.optim.schedules import Cosine, Exponential, Linear, MultiStep, OneCycle, Polynomial, RunLR, Step

__all__ = [
    "Cosine",
    "Exponential",
    "Linear",
    "MultiStep",
    "MuonSGD",
    "OneCycle",
    "Polynomial",
    "RunLR",
    "Step",
    "optimizer_and_schedule",
    "param_groups",
    "with_warmup",
]
