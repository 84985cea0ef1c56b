"""The prediction for one picture as JSON, the same from the server and from ``predict``. Does not import torch."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

# of class i: black, then colors that differ much from one to the next
PALETTE = [i * factor % 255 for i in range(256) for factor in (2**25 - 1, 2**15 - 1, 2**21 - 1)]


def answer(info: dict[str, Any], outputs: dict[str, np.ndarray], i: int) -> dict[str, Any]:
    """Return the prediction for picture i of a batch, of a model described by the content of its ``model.json``.

    Probabilities and fractions are rounded to 6 decimals; NaN and infinity are null, because JSON has neither.
    """
    kind, rows = info["kind"], {name: array[i] for name, array in outputs.items()}
    if kind == "values":
        return {"values": {name: plain(row) for name, row in rows.items()}}
    first, *others = rows.values()
    if kind == "numbers":
        return {"prediction": plain(first[0] if len(first) == 1 else first)}
    if kind == "embeddings":
        return {"embedding": plain(first)}
    if kind == "images":
        pixels = first.transpose(1, 2, 0) if len(first) == 3 else first.reshape(-1, first.shape[-1])
        return {"image": png(Image.fromarray(np.ascontiguousarray(pixels)))}
    if kind == "masks":
        return masked(info, first)
    values = plain(first.astype(np.float64).round(6))
    names = info["classes"] or [str(k) for k in range(len(values))]
    probabilities = dict(zip(names, values, strict=True))
    if kind == "labels":
        return {"prediction": [names[k] for k in np.flatnonzero(others[0])], "probabilities": probabilities}
    best = int(first.argmax())
    return {"prediction": names[best], "probability": values[best], "probabilities": probabilities}


def masked(info: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Return the fraction of pixels of each class in a mask (H, W), uint8, and the mask as a PNG."""
    classes, counts = np.unique(mask, return_counts=True)
    names = dict(enumerate(info["classes"] or ()))
    fractions = {names.get(k, str(k)): round(n / mask.size, 6) for k, n in zip(classes.tolist(), counts, strict=True)}
    picture = Image.fromarray(np.ascontiguousarray(mask))
    picture.putpalette(PALETTE)
    return {"prediction": fractions, "mask": png(picture)}


def plain(values: Any) -> Any:
    """Return an array as numbers in lists, or a scalar as a number; null for NaN and infinity."""
    values = np.asarray(values)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values = np.where(np.isfinite(values), values.astype(object), None)
    return values.tolist()


def png(picture: Image.Image) -> str:
    """Return a picture as a PNG file in base64."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
