"""Init: weight initialization, at random or from a file."""

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src import UserError, compile_pattern, require


class Init:
    """Initialize linear and convolutional layers of a net in place.

    Args:
        weight: function of ``torch.nn.init``: kaiming_normal_ or kaiming_uniform_ (He, arXiv:1502.01852),
            xavier_normal_ or xavier_uniform_ (Glorot and Bengio, 2010), orthogonal_ (arXiv:1312.6120), normal_,
            trunc_normal_.
        settings: other arguments of the function, such as {std: 0.02}.
        bias: value of all biases.
        match: regular expression for full layer names, such as 'head'; by default all layers.
    """

    def __init__(
        self,
        weight: Callable[..., Any] = nn.init.kaiming_normal_,
        settings: dict[str, Any] | None = None,
        bias: float = 0.0,
        match: str = ".*",
    ) -> None:
        self.weight, self.settings, self.bias = weight, settings or {}, bias
        self.pattern = compile_pattern("match", match)
        try:
            inspect.signature(weight).bind(None, **self.settings)
        except TypeError as error:
            raise UserError(f"settings must be arguments of {weight.__name__}: {error}") from None

    def __call__(self, net: nn.Module) -> None:
        layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}
        matching = [layer for name, layer in layers.items() if self.pattern.fullmatch(name)]
        shown = ", ".join(layers) or "none"
        require(matching, f"init: match {self.pattern.pattern!r} matches no layer; the net has {shown}")
        for layer in matching:
            try:
                self.weight(layer.weight, **self.settings)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                raise UserError(f"init: {self.weight.__name__} with {self.settings} fails: {error}") from None
            if layer.bias is not None:
                nn.init.constant_(layer.bias, self.bias)


class LoadWeights:
    """Load pretrained weights of a net from a file of ``torch.save``; nothing is downloaded.

    Weights of another shape, such as those of the last layer for other classes, keep their initial values.

    Args:
        file: a state dict, or a checkpoint that has one under ``state_dict`` or ``model``.
        prefix: start of the names in the file that belong to the net, such as ``net.`` for this project's checkpoints.
    """

    def __init__(self, file: str, prefix: str = "") -> None:
        self.file, self.prefix = file, prefix
        require(Path(file).is_file(), f"weights {file} does not exist")

    def __call__(self, net: nn.Module) -> None:
        try:
            stored: Any = torch.load(self.file, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle raises anything
            raise UserError(f"weights {self.file}: cannot be read as tensors ({type(error).__name__})") from None
        for key in ("state_dict", "model"):
            stored = stored[key] if isinstance(stored, dict) and isinstance(stored.get(key), dict) else stored
        require(isinstance(stored, dict), f"weights {self.file}: must hold a state dict, got a {type(stored).__name__}")
        start, own = len(self.prefix), net.state_dict()
        tensors = {key: value for key, value in stored.items() if isinstance(value, torch.Tensor)}
        named = {key[start:]: value for key, value in tensors.items() if key.startswith(self.prefix)}
        fitting = {key: value for key, value in named.items() if key in own and value.shape == own[key].shape}
        missing = [key for key in own if key not in fitting]
        what = f"weights {self.file}: {len(missing)} of {len(own)} tensors of the net are not in it"
        require(2 * len(fitting) >= len(own), f"{what}, such as {missing[:1]}; the file has {[*named][:1]}")
        net.load_state_dict(fitting, strict=False)
        if missing:
            warnings.warn(f"{what} and start untrained: {', '.join(missing[:5])}", stacklevel=2)
