"""Losses that torch lacks, and penalties on the weights. Name one in a YAML.

Add a loss: a function or nn.Module of logits and targets. Add a penalty: subclass Penalty and implement ``term``.
"""

from src.losses.classification import BinaryCrossEntropy, FocalLoss, Hinge
from src.losses.penalties import L1, L2, Orthogonal
from src.losses.regression import LogError, QuantileLoss
from src.losses.segmentation import SoftDice, SoftIoU, SumOfLosses
from src.losses.triplet import TripletLoss
