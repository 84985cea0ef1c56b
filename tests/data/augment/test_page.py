"""docs/augmentation.md lists every batch transform, says what happens to masks, and shows configs that work."""

import re
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from src import data

TEXT = (Path(__file__).parents[3] / "docs/augmentation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)


def test_the_table_says_what_each_transform_does_to_masks():
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (\w+) \|$", TEXT, re.M))
    transforms = {name: value for name, value in vars(data).items() if isinstance(value, type)}
    transforms = {name: kind for name, kind in transforms.items() if kind.__module__.startswith("src.data.augment.")}
    mixing = {"MixUp", "CutMix"}
    assert rows.keys() == transforms.keys() - mixing
    assert all(f"src.data.{name}`" in TEXT for name in mixing)
    for name, masks in rows.items():
        moves = "move" if hasattr(transforms[name], "with_masks") else "refused"
        assert masks == (moves if getattr(transforms[name], "moves_pixels", True) else "stay"), name


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: " ".join(re.findall(r"[\w.]+\.[A-Z]\w+", block)))
def test_a_config_block_augments_a_batch_of_digits(block):
    if "kornia" in block:
        pytest.importorskip("kornia")
    Path("block.yaml").write_text(block, encoding="utf-8")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(data.DataModule, "data")
    digits = parser.instantiate(parser.parse_args(["--data=src.data.Digits", "--config=block.yaml"])).data
    digits.setup("fit")
    images, targets = next(iter(digits.train_dataloader()))
    assert images.shape == (len(targets), 1, 8, 8)
    assert torch.isfinite(images).all()
