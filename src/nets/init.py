"""Init: how the weights of a net are drawn."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from src import UserError


class Init:
    """Draw the weights of linear and convolutional layers, and set their biases.

    Args:
        weight: function of ``torch.nn.init``: kaiming_normal_ or kaiming_uniform_ (He, arXiv:1502.01852),
            xavier_normal_ or xavier_uniform_ (Glorot and Bengio, 2010), orthogonal_ (arXiv:1312.6120), normal_,
            trunc_normal_.
        settings: further arguments of it, such as {std: 0.02}.
        bias: value of all biases.
        match: regular expression for the whole names of the layers, such as 'head'; by default all.
    """

    def __init__(
        self,
        weight: Callable[..., Any] = nn.init.kaiming_normal_,
        settings: dict[str, Any] | None = None,
        bias: float = 0.0,
        match: str = ".*",
    ) -> None:
        self.weight, self.settings, self.bias, self.match = weight, settings or {}, bias, match
        try:
            re.compile(match)
        except re.error as error:
            raise ValueError(f"match must be a regular expression, got {match!r} ({error})") from None
        try:
            inspect.signature(weight).bind(None, **self.settings)
        except TypeError as error:
            raise ValueError(f"settings must be arguments of {weight.__name__}: {error}") from None

    def __call__(self, net: nn.Module) -> None:
        """Initialise a net in place.

        Raises:
            UserError: if no layer has a name that matches, or if the function refuses its arguments.
        """
        kinds = (nn.Linear, nn.modules.conv._ConvNd)
        layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, kinds)}
        chosen = [layer for name, layer in layers.items() if re.fullmatch(self.match, name)]
        if not chosen:
            raise UserError(f"init: no layer matches {self.match!r}; the net has {', '.join(layers) or 'none'}")
        for layer in chosen:
            try:
                self.weight(layer.weight, **self.settings)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                raise UserError(f"init: {self.weight.__name__} with {self.settings} fails: {error}") from None
            if layer.bias is not None:
                nn.init.constant_(layer.bias, self.bias)
