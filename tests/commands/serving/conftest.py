"""What the server changes in Pillow is undone after each test."""

import pytest
from PIL import Image, PngImagePlugin


@pytest.fixture(autouse=True)
def _pillow(monkeypatch):
    for owner, name in ((Image, "MAX_IMAGE_PIXELS"), (PngImagePlugin, "MAX_TEXT_MEMORY")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
