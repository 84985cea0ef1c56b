"""Networks, independent of training. Add one: an nn.Module with first argument num_outputs. Name it in a YAML."""

from src.nets.init import Init
from src.nets.lenet import LeNet
from src.nets.mlp import MLP
from src.nets.resnet import ResNet
from src.nets.resnet9 import ResNet9
from src.nets.sequential_cnn import SequentialCNN
from src.nets.small_cnn import SmallCNN
from src.nets.whitened_cnn import WhitenedCNN

__all__ = ["MLP", "Init", "LeNet", "ResNet", "ResNet9", "SequentialCNN", "SmallCNN", "WhitenedCNN"]
