"""Image files are found, read in parallel and indexed like a tensor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src import UserError
from src.data.loading.image_files import ImageFiles, decode_all, find_images
from tests.conftest import needs_posix


def some_files(count: int = 4, bad: tuple = (), **settings) -> ImageFiles:
    for i in range(count):
        Image.new("L", (4, 4), i).save(f"{i}.png")
    for i in bad:
        Path(f"{i}.png").write_text("not an image", encoding="utf-8")
    return ImageFiles([Path(f"{i}.png") for i in range(count)], (1, 4, 4), **settings)


def test_image_files_are_indexed_like_a_tensor():
    files = some_files()
    assert files[torch.tensor([3, 0])][:, 0, 0, 0].tolist() == [3, 0]
    assert files[torch.tensor([3, 0])].shape == (2, 1, 4, 4)
    assert files.subset(torch.tensor([1, 3]))[torch.tensor([1])][0, 0, 0, 0] == 3
    assert (len(files), len(files.subset(torch.tensor([1, 3])))) == (4, 2)


def test_a_bad_file_stops_and_is_named():
    with pytest.raises(UserError, match=r"^cannot decode 1\.png: .*; repair or remove it$"):
        some_files(bad=(1,))[torch.arange(4)]


@pytest.mark.parametrize("odd", ["a/.thumbnails/2.png", "a/.2.png", "a/folder.png/notes.txt", "a/notes.txt"])
def test_only_visible_files_with_an_image_suffix_are_found(odd):
    for name in ("a/1.PNG", "a/deep/3.jpg", odd):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert find_images(Path("a")) == [Path("a/1.PNG"), Path("a/deep/3.jpg")]


@needs_posix
def test_images_behind_links_are_found_once():
    for folder in ("a", "elsewhere/deep"):
        Path(folder).mkdir(parents=True)
        Image.new("L", (2, 2)).save(f"{folder}/1.png")
    Path("a/more").symlink_to(Path("elsewhere").absolute())
    Path("elsewhere/back").symlink_to(Path("a").absolute())
    assert find_images(Path("a")) == [Path("a/1.png"), Path("a/more/deep/1.png")]


def test_one_scale_is_used_for_images_decoded_together():
    for name, level in (("a.tif", 4000), ("b.tif", 1000)):
        Image.fromarray(np.full((2, 2), level, dtype=np.uint16)).save(name)
    images = decode_all([Path("a.tif"), Path("b.tif")], (3, 2, 2))["images"]
    assert images[:, 2, 0, 0].tolist() == [round(4000 / 4095 * 255), round(1000 / 4095 * 255)]


def test_a_heic_file_is_read_where_pillow_heif_is_installed():
    pytest.importorskip("pillow_heif").register_heif_opener()
    Image.fromarray(np.full((8, 8, 3), 90, dtype=np.uint8)).save("a.heic")
    files = ImageFiles([Path("a.heic")], (3, 8, 8))
    assert (files[torch.arange(1)].int() - 90).abs().max() <= 8
    assert find_images(Path()) == [Path("a.heic")]
