"""What watches a run. Add a callback: subclass lightning's Callback, name the class in a YAML."""

from src.callbacks.config_wins import ConfigWins
from src.callbacks.epoch_line import EpochLine

__all__ = ["ConfigWins", "EpochLine"]
