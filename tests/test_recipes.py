"""Every recipe of docs/recipes.md runs as it is printed there."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

from src.cli import main
from src.nets import SmallCNN
from tests.conftest import ROOT, heavy

TEXT = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)


def title(block: str) -> str:
    return " ".join(re.findall(r"[\w.]+", block)[3:6])


@pytest.mark.parametrize("block", heavy(BLOCKS, "src.data.RandomFlip", "ProgressiveResize"), ids=title)
def test_a_recipe_trains_validates_and_tests(block: str) -> None:
    if "kornia" in block.lower():
        pytest.importorskip("kornia")
    if "net.pt" in block:
        state = SmallCNN(7).state_dict()
        torch.save({name.replace("features", "body"): each for name, each in state.items()}, "net.pt")
    Path("recipe.yaml").write_text(block, encoding="utf-8")
    x = main(["fit", "--config=configs/digits.yaml", "--config=recipe.yaml", "--trainer.fast_dev_run=2"])
    assert x.trainer.global_step == 2


@pytest.mark.parametrize("room", ["src.data.augment", "src.losses", "src.optim.schedules"])
def test_every_class_that_a_config_can_name_is_on_the_page(room: str) -> None:
    module = import_module(room.removesuffix(".augment"))
    public = {
        name: kind for name, kind in vars(module).items() if isinstance(kind, type) and kind.__module__.startswith(room)
    }
    bases = {base for kind in public.values() for base in kind.__mro__[1:]}
    assert len(public) > 2
    assert not [name for name, kind in public.items() if kind not in bases and name not in TEXT]
