"""The JSON of one prediction, for each kind of model."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from src.runs.answers import answer

CASES = {
    "classes": (
        ["cat", "dog"],
        {"probabilities": [[0.9, 0.1], [0.25, 0.75]]},
        {"prediction": "dog", "probability": 0.75, "probabilities": {"cat": 0.25, "dog": 0.75}},
    ),
    "labels": (
        ["cat", "dog"],
        {"probability": [[0.9, 0.1], [0.6, 0.7]], "predicted": [[1, 0], [1, 1]]},
        {"prediction": ["cat", "dog"], "probabilities": {"cat": 0.6, "dog": 0.7}},
    ),
    "numbers": (None, {"numbers": [[1.0], [3.25]]}, {"prediction": 3.25}),
    "embeddings": (None, {"embedding": [[0.0, 0.0], [0.5, -0.5]]}, {"embedding": [0.5, -0.5]}),
    "values": (None, {"a": [1.5, 2.5], "b": [[1, 2], [3, 4]]}, {"values": {"a": 2.5, "b": [3, 4]}}),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_answer_for_the_second_picture_of_a_batch(kind):
    classes, outputs, expected = CASES[kind]
    arrays = {name: np.array(rows, np.int64 if name == "predicted" else None) for name, rows in outputs.items()}
    arrays = {name: rows.astype(np.float32) if rows.dtype == np.float64 else rows for name, rows in arrays.items()}
    found = answer({"kind": kind, "classes": classes}, arrays, 1)
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


def test_several_numbers_are_a_list():
    assert answer({"kind": "numbers"}, {"numbers": np.array([[1.0, 2.0]])}, 0) == {"prediction": [1.0, 2.0]}


def test_classes_without_names_are_numbered_and_nan_is_null():
    found = answer({"kind": "classes", "classes": None}, {"probabilities": np.array([[0.5, np.nan]])}, 0)
    assert found["probabilities"] == {"0": 0.5, "1": None}


def test_a_mask_has_fractions_and_an_indexed_png():
    mask = np.zeros((1, 4, 5), np.uint8)
    mask[0, 0] = 2
    found = answer({"kind": "masks", "classes": ["background", "cat"]}, {"mask": mask}, 0)
    assert found["prediction"] == {"background": 0.75, "2": 0.25}
    picture = Image.open(io.BytesIO(base64.b64decode(found["mask"])))
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), mask[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_a_png(channels):
    pixels = np.random.default_rng(0).integers(0, 255, (1, channels, 4, 5), np.uint8)
    picture = Image.open(io.BytesIO(base64.b64decode(answer({"kind": "images"}, {"image": pixels}, 0)["image"])))
    np.testing.assert_array_equal(np.asarray(picture).reshape(4, 5, channels).transpose(2, 0, 1), pixels[0])
