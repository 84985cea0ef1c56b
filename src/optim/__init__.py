"""Optimizers and schedules that torch lacks, and parameter groups. Name a class in a YAML.

Add a schedule: subclass RunLR and implement ``factor``. Add an optimizer: subclass torch.optim.Optimizer.
"""

from src.optim.groups import build_optimizer, param_groups
from src.optim.muon import MuonSGD
from src.optim.schedules import Cosine, Exponential, Linear, MultiStep, OneCycle, Polynomial, RunLR, Step, with_warmup
