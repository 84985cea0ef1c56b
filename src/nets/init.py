"""Init: random weight initialization."""

import inspect
from collections.abc import Callable
from typing import Any

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
