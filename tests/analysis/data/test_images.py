"""Pictures that stand out, and what is measured of each, by hand."""

import numpy as np
import pytest
import torch

from src.analysis.data.images import measure, odd_sizes, outliers
from tests.analysis.data.test_duplicates import blobs


def test_values_of_a_picture_are_those_of_numpy():
    image = torch.randint(0, 256, (1, 1, 12, 12), generator=torch.Generator().manual_seed(0)).byte()
    values = {name: float(value[0]) for name, value in measure([image], 1).values.items()}
    pixels = image[0, 0].double().numpy()
    flat = np.sort(pixels.ravel())
    edges = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * pixels[1:-1, 1:-1]
    assert values["mean"] == pytest.approx(pixels.mean(), rel=1e-5)
    assert values["std"] == pytest.approx(pixels.std(), rel=1e-5)
    assert (values["dark"], values["light"]) == (flat[round(0.99 * 143)], flat[round(0.01 * 143)])
    assert values["levels"] == len(np.unique(pixels))
    assert values["sharpness"] == pytest.approx(np.log10((edges**2).mean() / pixels.var()), abs=1e-3)


def test_measures_do_not_depend_on_the_batches():
    images = blobs(10)
    whole, parts = measure([images], 10), measure(images.split(3), 10)
    assert whole.digests == parts.digests
    assert whole.small.equal(parts.small)
    assert all(np.allclose(whole.values[name], parts.values[name]) for name in whole.values)


def test_dark_light_blank_blurred_and_reduced_pictures_are_named():
    images = blobs(200).float()
    images += 10 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    images[3] = images[3] / 12
    images[5] = 235 + images[5] / 14
    images[7] = 100
    ramp = torch.linspace(40, 200, 32)
    images[9] = ramp[:, None] + ramp / 4
    images[11] = (images[11].mean(0) > 128) * 200.0
    found = outliers(measure([images.clamp(0, 255).byte()], 200).values)
    assert {(i, kind) for i, kind, _ in found} == {
        (3, "dark"), (5, "light"), (7, "blank"), (9, "blurred"), (11, "few gray levels"),
    }  # fmt: skip


def test_what_is_frequent_is_the_style_of_the_data():
    assert outliers(measure([blobs(100) // 8], 100).values) == []
    drawings = (blobs(100).float().mean(1, keepdim=True) > 128).byte() * 255
    assert outliers(measure([drawings], 100).values) == []


def test_odd_sizes_are_those_unlike_nearly_all_others():
    assert odd_sizes([(32, 32)] * 99 + [(33, 57)]) == [(99, "odd size", 0.579)]
    assert odd_sizes([(400 + i, 300) for i in range(99)] + [(900, 100)]) == [(99, "odd aspect", 9.0)]
    assert odd_sizes([(400 + i, 300) for i in range(99)] + [(44, 33)]) == [(99, "odd size", 1.333)]
    assert odd_sizes([(400 + 9 * (i % 7), 300 + 5 * (i % 5)) for i in range(99)]) == []
