"""Exact and near duplicates, compared with pictures that were copied and changed on purpose."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, pad

from src.analysis.data.duplicates import correlation, exact_pairs, near_pairs, same_pixels, structure


def blobs(count: int, seed: int = 0) -> torch.Tensor:
    """Return pictures (N, 3, 32, 32), uint8, of random colored blobs."""
    draw = torch.Generator().manual_seed(seed)
    return interpolate(255 * torch.rand(count, 3, 9, 9, generator=draw), 32, mode="bilinear").byte()


def test_exact_pairs_name_every_copy():
    assert exact_pairs([b"a", b"b", b"a", b"c", b"a"]) == [(0, 2, 1.0), (0, 4, 1.0)]


@pytest.mark.parametrize("count", [60, 1500])
def test_changed_copies_are_found_and_no_other_pair(count: int):
    images = blobs(count)
    noise = torch.randn(images[:1].shape, generator=torch.Generator().manual_seed(1))
    changed = [images[3].float() * 0.8 + 20, images[5].float() + 6 * noise[0], images[7].roll(1, 2).float()]
    everything = torch.cat([images, torch.stack(changed).clamp(0, 255).byte()])
    found, complete = near_pairs(everything, [count, 0, 3])
    assert complete
    assert {(i, j) for i, j, _ in found} == {(3, count), (5, count + 1), (7, count + 2)}
    scores = [score for *_, score in found]
    assert scores == sorted(scores, reverse=True)


def test_pictures_of_one_kind_are_no_duplicates():
    """All show the same thing, at random brightness and with a little noise, as drawings of one digit do."""
    draw = torch.Generator().manual_seed(0)
    images = blobs(1).float() + 12 * torch.randn(200, 3, 32, 32, generator=draw)
    assert near_pairs(images.clamp(0, 255).byte(), [200])[0] == []


def test_the_correlation_is_the_best_over_shifts():
    images = blobs(1).float()
    shifted = pad(images, (2, 0, 1, 0), mode="replicate")[..., :32, :32]
    both = structure(torch.cat([images, shifted]).byte())
    first, second = torch.tensor([0]), torch.tensor([1])
    assert correlation(both, first, second).item() > 0.99
    a, b = both.double()
    still = float((a * b).sum() / (a.norm() * b.norm()))
    assert still < 0.9
    cut = (a[:-1, :-2] * b[1:, 2:]).sum() / (a[:-1, :-2].norm() * b[1:, 2:].norm())
    assert correlation(both, first, second).item() == pytest.approx(float(cut), abs=1e-5)


def test_files_of_any_format_are_compared_by_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for name in ("a.png", "b.bmp"):
        Image.fromarray(pixels).save(name)
    Image.fromarray(pixels ^ 1).save("c.png")
    assert same_pixels(Path("a.png"), Path("b.bmp"))
    assert not same_pixels(Path("a.png"), Path("c.png"))
    assert not same_pixels(Path("a.png"), Path("none.png"))
