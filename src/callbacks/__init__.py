"""What watches a run. Add a callback: subclass lightning's Callback, name the class in a YAML."""

from src.callbacks.epoch_line import EpochLine
from src.callbacks.last_checkpoint import LastCheckpoint
from src.callbacks.resume import Resume

__all__ = ["EpochLine", "LastCheckpoint", "Resume"]
