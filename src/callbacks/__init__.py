"""What watches a run. Add a callback: subclass lightning's Callback, name the class in a YAML."""

from src.callbacks.config_wins import ConfigWins
from src.callbacks.epoch_line import EpochLine
from src.callbacks.last_checkpoint import LastCheckpoint

__all__ = ["ConfigWins", "EpochLine", "LastCheckpoint"]
