"""Callbacks that a YAML names. To add one, subclass lightning's Callback in this folder and export it here."""

from src.callbacks.averaging import EMA, SWA
from src.callbacks.freeze import Freeze
from src.callbacks.gradient_checkpointing import GradientCheckpointing
from src.callbacks.micro_batches import MicroBatches
from src.callbacks.monitor import Monitor
from src.callbacks.noise import GradientNoise, WeightNoise
from src.callbacks.pictures import Pictures
