"""The docstring of a command as lines of help. This module does not import torch."""

import re
from textwrap import wrap

COLUMNS = 80


def paragraphs(description: str) -> list[str]:
    """Return lines of at most 80 columns: each paragraph, and each option of ``Args:``, is joined and wrapped."""
    joined = re.sub(r"(?<=\S)\n(?=\S)|\n {8,}", " ", description)
    found: list[str] = []
    for text in joined.splitlines():
        indent = re.match(" *", text)[0]  # type: ignore[index]
        found += wrap(text, COLUMNS, subsequent_indent=indent + 2 * " " * bool(indent)) or [""]
    return found
