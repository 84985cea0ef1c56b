"""What watches a run. Add a callback: subclass lightning's Callback, name the class in a YAML."""

from src.callbacks.averaging import EMA, SWA
from src.callbacks.bar import Bar
from src.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from src.callbacks.epoch_line import EpochLine
from src.callbacks.freeze import Freeze
from src.callbacks.gradient_checkpointing import GradientCheckpointing
from src.callbacks.gradient_noise import GradientNoise
from src.callbacks.resume import Resume
from src.callbacks.signals import Signals
from src.callbacks.skip_non_finite import SkipNonFinite
from src.callbacks.weight_noise import WeightNoise

__all__ = [
    "EMA",
    "SWA",
    "Bar",
    "BestCheckpoint",
    "EpochLine",
    "Freeze",
    "GradientCheckpointing",
    "GradientNoise",
    "LastCheckpoint",
    "Resume",
    "Signals",
    "SkipNonFinite",
    "WeightNoise",
]
