"""Pages: one HTML file each, from the templates in web, with pictures and charts inside and nothing to load."""

import io
import re
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from math import floor, isfinite, log10
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

WEB = Path(__file__).parent / "web"
Series = tuple[str, Sequence[float], Sequence[float]]  # name, x and y
Range = tuple[float, float] | None
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 360, 220, 48, 12, 26
COLORS, DASHES = 6, ("", "6 3", "2 3")
LABEL = 18  # letters of the name of a line; of longer ones, the end
NAMES = {"iou": "IoU", "f1": "F1", "mae": "mean absolute error", "map": "mAP", "recall_at_1": "recall at 1"}
LARGEST = 96  # pixels of a picture's longer side


@cache
def environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only pages need it

    blocks: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True}
    return Environment(loader=FileSystemLoader(WEB), autoescape=True, undefined=StrictUndefined, **blocks)


def render(template: str, **values: Any) -> str:
    """Return the page of a template in web; values are escaped, also bytes of file names that are not UTF-8."""
    text = environment().get_template(template).render(**values)
    text = re.sub("[\udc80-\udcff]+", lambda found: as_utf8(found[0]), text)
    return text.encode("utf-8", "backslashreplace").decode()


def as_utf8(text: str) -> str:
    """Return bytes of a file name that Python could not decode, in a locale of ASCII, as the UTF-8 that they are."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def picture(pixels: ArrayLike, alt: str) -> dict[str, Any]:
    """Return what the macro ``pictures`` shows of an image (H, W), (C, H, W) or (H, W, 3), uint8.

    Small images stay as they are, as PNG; larger ones are scaled to 96 pixels and compressed as WebP.
    """
    from PIL import Image

    array = np.asarray(pixels)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    image = Image.fromarray(array.squeeze(2) if array.ndim == 3 and array.shape[2] == 1 else array)
    photo = max(image.size) > 48
    image.thumbnail((LARGEST, LARGEST))
    file, kind = io.BytesIO(), "webp" if photo else "png"
    image.save(file, kind, quality=80)  # which PNG does not have
    return {"uri": f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}", "alt": alt, "photo": photo}


def percent(value: float, kind: str) -> str:
    return f"{value:.4g}" if kind == "numbers" else f"{100 * value:.2f} %"


def interval(ends: Sequence[float], kind: str) -> str:
    low, high = ends
    return f"{low:.4g} to {high:.4g}" if kind == "numbers" else f"{100 * low:.2f} to {100 * high:.2f} %"


def signed(kind: str, *values: float) -> str:
    """Return a difference, or the ends of its interval."""
    return " to ".join(f"{value:+.4g}" if kind == "numbers" else f"{100 * value:+.2f}" for value in values)


def subset(used: int, total: int) -> str:
    return f"{used:,} of {total:,}" if used < total else f"all {total:,}"


def p_text(p: float | None) -> str:
    """Return a p-value; those below 0.0001 depend on the far tails of a distribution, and all mean the same."""
    return "" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from at most ``low`` to at least ``high``, about ``count`` of them."""
    raw = (high - low) / max(1, count - 1)
    if not (isfinite(raw) and raw > 0):
        return [low]
    power = 10.0 ** floor(log10(raw))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= raw * 0.999)
    first = floor(low / step + 1e-9)
    return [round((first + i) * step, 12) for i in range(count + 3) if i == 0 or (first + i - 1) * step < high - 1e-9]


def clipped(text: str, letters: int) -> str:
    """Return the end of a text that is too long."""
    return text if len(text) <= letters else f"…{text[len(text) - letters + 1 :]}"


def chart(
    title: str,
    series: Sequence[Series],
    y_range: Range = None,
    dots: bool = False,
    sizes: Any = (),
    x_marks: Any = None,
) -> Any:
    """Return what the macro ``chart`` draws of lines, each with its name at its end; None without finite values.

    Values that are not finite are left out. The y axis begins by default at 0, or the lowest value below it. ``dots``
    marks the points; a line with ``sizes``, a list for each line or None, is only points of these radii. ``x_marks``
    are places and labels on an x axis from 0 to 1; by default, the axis is that of the points.
    """
    finite = [(name, [(x, y) for x, y in zip(xs, ys, strict=True) if isfinite(y)]) for name, xs, ys in series]
    finite = [(name, points) for name, points in finite if points]
    if not finite:
        return None
    xs, ys = ([point[i] for _, points in finite for point in points] for i in (0, 1))
    y_ticks = ticks(*(y_range or (min(0.0, *ys), max(ys))))
    halves = any(x % 1 for x in xs)  # there are no half epochs
    x_ticks = [x for x in ticks(min(xs), max(xs)) if halves or x % 1 == 0]
    names = [name[-LABEL:] for name, _ in finite]
    right = WIDTH - 16 - round(max(6.5 * len(name) + 3 * sum(map(str.isupper, name)) for name in names))
    y0, y1 = y_ticks[0], max(y_ticks[-1], y_ticks[0] + 1e-9)
    x0, x1 = (0, 1) if x_marks else (min(xs), max(max(xs), min(xs) + 1e-9))
    x_marks = x_marks or [(x, f"{x:g}") for x in x_ticks if x0 <= x <= x1]
    low = HEIGHT - BOTTOM
    title += " (zoomed in)" if min(ys) < y0 or max(ys) > y1 else ""

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(LEFT + (x - x0) / (x1 - x0) * (right - LEFT), 1),
            round(min(max(low - (y - y0) / (y1 - y0) * (low - TOP), -9 * HEIGHT), 9 * HEIGHT), 1),
        )

    lines: list[dict[str, Any]] = []
    for i, (name, points) in enumerate(finite):
        at = [place(*point) for point in points]
        style = {"color": i % COLORS, "dash": DASHES[i // COLORS % len(DASHES)], "label_y": at[-1][1] + 4}
        radii = sizes[i] if i < len(sizes) else None
        text = "" if radii else " ".join(f"{x},{y}" for x, y in at)
        shown = zip(at, radii or [2.5] * len(at), strict=True) if radii or dots or len(at) == 1 else ()
        lines.append(
            {"name": clipped(name, LABEL), "points": text, "dots": [(x, y, r) for (x, y), r in shown], **style}
        )
    spread(lines)
    ends = "; ".join(f"{name}: {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in finite)
    return {
        "title": title, "alt": f"{title}. {ends}", "lines": lines, "width": WIDTH, "height": HEIGHT,
        "left": LEFT, "right": right, "bottom": low,
        "x_ticks": [(place(x, y0)[0], text) for x, text in x_marks],
        "y_ticks": [(place(x0, y)[1], f"{y:g}") for y in y_ticks],
    }  # fmt: skip


def later_range(series: Sequence[Series]) -> Range:
    """Return the range of the values after the first fifth of each line, where early ones would hide the others."""
    later, everything = ([y for *_, ys in series for y in ys[len(ys) * i // 5 :] if isfinite(y)] for i in (1, 0))
    if not later or max(len(ys) for *_, ys in series) < 5:
        return None
    low, high = min(later), max(later)
    return (low, high) if max(everything) - min(everything) > 3 * (high - low) > 0 else None


def spread(lines: list[dict[str, Any]], gap: float = 13) -> None:
    """Move the labels of lines apart that would touch, and above the labels of the x axis."""
    ordered = sorted(lines, key=lambda line: line["label_y"])
    for before, after in pairwise(ordered):
        after["label_y"] = max(after["label_y"], before["label_y"] + gap)
    highest = HEIGHT - BOTTOM + 4.0
    for line in reversed(ordered):
        line["label_y"] = round(min(line["label_y"], highest), 1)
        highest = line["label_y"] - gap


def shades(counts: NDArray[np.int64]) -> list[list[float]]:
    """Return how dark each cell of a confusion matrix (K, K) is; errors by the square root of their number."""
    errors = counts - np.diag(np.diag(counts))
    dark = 0.6 * np.sqrt(errors / max(1, errors.max()))
    np.fill_diagonal(dark, 0.15)
    return np.round(dark, 2).tolist()
