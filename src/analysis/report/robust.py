"""Robustness: images with noise, blur, less contrast, JPEG artifacts or turned, and adversarial ones."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from src.analysis.outputs import Outputs
from src.analysis.page import NAMES, chart, interval, percent, subset

if TYPE_CHECKING:
    from torch import Tensor

FILE = "robust.json"
AMOUNTS: dict[str, tuple[float, ...]] = {  # five strengths of each corruption
    "noise": (5, 10, 20, 40, 80),
    "blur": (1.5, 2.5, 3.5, 5, 7),
    "contrast": (0.75, 0.5, 0.35, 0.2, 0.1),
    "JPEG": (80, 50, 30, 15, 5),
    "rotation": (5, 10, 15, 25, 40),
}
UNITS = {
    "noise": "standard deviation, in pixel values",
    "blur": "standard deviation, in % of the shorter side",
    "contrast": "remaining part",
    "JPEG": "quality",
    "rotation": "degrees",
    "FGSM": "largest change, in pixel values",
    "PGD": "largest change, in pixel values",
}
STEPS = 10  # of PGD
ATTACKS = ("FGSM", "PGD")
CHUNK = 256


def corrupt(images: "Tensor", kind: str, amount: float) -> "Tensor":
    """Return images (N, C, H, W), uint8, corrupted: the same ones each time.

    ``noise`` is Gaussian, ``blur`` a Gaussian filter; ``contrast`` draws pixels to the mean of their channel, as in
    arXiv:1903.12261; ``rotation`` turns every other image the other way, with black corners.
    """
    import torch  # slow to import
    from torchvision.transforms.v2 import functional as tv

    generator, found = torch.Generator().manual_seed(0), []
    for part in images.split(CHUNK):
        x = part.float()
        if kind == "noise":
            x = x + amount * torch.randn(x.shape, generator=generator)
        elif kind == "blur":
            sigma = amount / 100 * min(x.shape[2:])
            size = [min(2 * max(1, round(3 * sigma)) + 1, 2 * each - 1) for each in (x.shape[3], x.shape[2])]
            x = tv.gaussian_blur(x, size, [sigma, sigma])
        elif kind == "contrast":
            mean = x.mean((2, 3), keepdim=True)
            x = mean + amount * (x - mean)
        elif kind == "JPEG":
            x = torch.stack([through_jpeg(each, int(amount)) for each in part])
        else:
            turned = [tv.rotate(x, angle, tv.InterpolationMode.BILINEAR) for angle in (amount, -amount)]
            x = torch.stack(turned, 1)[torch.arange(len(x)), torch.arange(len(x)) % 2]
        found.append(x.round().clamp(0, 255).byte() if x.is_floating_point() else x)
    return torch.cat(found)


def through_jpeg(image: "Tensor", quality: int) -> "Tensor":
    """Return an image (1 or 3, H, W), uint8, as a JPEG file of that quality keeps it; that of torchvision is going."""
    import torch
    from PIL import Image

    pixels, file = image.cpu().permute(1, 2, 0).numpy(), io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if len(image) == 1 else pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).view(*image.shape[1:], len(image)).permute(2, 0, 1)


def attack(gradient: Callable[["Tensor"], "Tensor"], pixels: "Tensor", eps: float, start: Any = None) -> "Tensor":
    """Return pixels (N, C, H, W) changed by at most ``eps`` each, within [0, 255], to raise a loss.

    Without ``start`` by FGSM, one step in the direction of the gradient's sign: arXiv:1412.6572, equation 1; otherwise
    by PGD, 10 steps from there, projected after each: arXiv:1706.06083, section 2.1. ``gradient`` returns that of the
    loss with respect to the pixels, in any positive scale; ``start`` is a change of each pixel.
    """
    low, high = (pixels - eps).clamp(min=0), (pixels + eps).clamp(max=255)
    if start is None:
        return (pixels + eps * gradient(pixels).sign()).clamp(low, high)
    x = (pixels + start).clamp(low, high)
    for _ in range(STEPS):
        x = (x + 2.5 * eps / STEPS * gradient(x).sign()).clamp(low, high)
    return x


def attacker(normalize: Any, eps: float, random_start: bool) -> Callable[..., None]:
    """Return an ``on_test_batch_start`` that replaces the images of a batch by adversarial ones, of FGSM or PGD.

    PGD has a random start, which depends on the sample alone; ``eps`` is in pixel values.
    """
    import torch  # slow to import

    seen = 0

    def change(trainer: Any, task: Any, batch: Any, *_: int) -> None:
        nonlocal seen
        inputs, targets = batch

        def gradient(pixels: "Tensor") -> "Tensor":
            pixels = pixels.detach().requires_grad_()
            with torch.enable_grad(), trainer.precision_plugin.forward_context():
                loss = task.evaluate((normalize(pixels).to(inputs.dtype), targets))[0]
                total = len(targets) * loss  # gradients of a mean could vanish in half precision
            return torch.autograd.grad(total, pixels)[0]

        normalize(inputs[:1])  # moves its mean and std to the device
        pixels = (inputs.float() * normalize.std + normalize.mean).round()
        start: Any = None
        if random_start:
            draws = [torch.Generator().manual_seed(seen + i) for i in range(len(inputs))]
            start = torch.stack([2 * torch.rand(inputs.shape[1:], generator=draw) - 1 for draw in draws])
            start = eps * start.to(inputs.device)
        seen += len(inputs)
        inputs.copy_(normalize(attack(gradient, pixels, eps, start)))

    return change


def robust_section(facts: dict[str, Any], o: Outputs) -> dict[str, Any] | None:
    """Return charts and table of what was measured; None if that was of other predictions."""
    if facts.get("identity") != o.identity:
        return None
    metric, clean = NAMES.get(o.metric, o.metric), facts["clean"]
    rows = [["none", "", percent(clean["value"], o.kind), interval(clean["interval"], o.kind)]]
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for each in facts["rows"]:
        kind, amount = each["kind"], each["amount"]
        rows.append([kind, f"{amount:g}", percent(each["value"], o.kind), interval(each["interval"], o.kind)])
        xs, ys = curves.setdefault(kind, ([0.0], [clean["value"]]))
        xs.append(amount if kind in ATTACKS else len(xs))
        ys.append(each["value"])
    groups = {"strength of the corruption": set(AMOUNTS), "largest change of a pixel value": set(ATTACKS)}
    drawn = [(f"{metric} by {x}", [(k, *curves[k]) for k in curves if k in kinds]) for x, kinds in groups.items()]
    limit = None if o.kind == "numbers" else (0.0, 1.0)
    units = "; ".join(f"{kind}: {UNITS[kind]}" for kind in curves)
    samples = subset(facts["samples"], facts["of"])
    return {
        "head": ["change", "amount", metric, "95 % interval"],
        "rows": rows,
        "charts": [c for title, lines in drawn if (c := chart(title, lines, limit, dots=True))],
        "note": f"On {samples} test samples, in {facts['seconds']:g} s. Amounts: {units}.",
        "left_out": facts["left_out"],
    }
