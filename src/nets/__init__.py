"""Networks, independent of training; all map images (N, C, H, W) to logits (N, K). Name one in a YAML.

Add a net: an nn.Module with first argument num_outputs, the number of outputs K.
"""

from src.nets.init import Init
from src.nets.mobile import MobileCNN
from src.nets.resnet import ResNet, ResNet9
from src.nets.small import MLP, LeNet, SequentialCNN, SmallCNN
from src.nets.unet import UNet
from src.nets.whitened_cnn import WhitenedCNN
