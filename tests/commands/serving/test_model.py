"""One call of the model for all pictures that wait, and failures that stay alone."""

import asyncio

import numpy as np
import pytest

from src import UserError
from src.commands.serving.model import LARGEST_BATCH, Gone, Model, ModelError
from src.runs.exports import Models
from tests.served import FOLDER, publish


def load(**how) -> Model:
    return Model.load(Models(FOLDER).load(publish(**how)))


def pictures(n: int, first: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(n).integers(0, 255, (n, 1, 8, 8), np.uint8)
    pixels[:, 0, 0, 0] = first
    return pixels


def predict(model: Model, *requests: np.ndarray, gone=()):
    async def together():
        waiting = [model.predict(each, lambda i=i: i in gone) for i, each in enumerate(requests)]
        return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(together())


def test_what_waits_while_the_model_runs_is_one_batch():
    model, sizes = load(), []
    model.batched = sizes.append
    requests = [pictures(n) for n in (2, 1, 3, 1)]
    results = predict(model, *requests)
    assert sizes == [2, 5]
    for pixels, result in zip(requests, results, strict=True):
        rows = result.outputs["probabilities"][result.first : result.first + len(pixels)]
        np.testing.assert_allclose(rows, model.compute(pixels)["probabilities"], rtol=1e-5)


def test_a_batch_has_at_most_256_pictures():
    model, sizes = load(), []
    model.batched = sizes.append
    predict(model, *[pictures(100)] * 6)
    assert sizes == [100, 200, 200, 100]
    assert max(sizes) <= LARGEST_BATCH


def test_a_picture_on_which_the_model_fails_fails_alone():
    model = load(fails_from=200)
    first, bad, good = predict(model, pictures(1), pictures(1, first=201), pictures(1))
    assert isinstance(bad, ModelError)
    assert str(bad).startswith("the model failed: ")
    for result in (first, good):
        row = result.outputs["probabilities"][result.first]
        np.testing.assert_allclose(row, model.compute(pictures(1))["probabilities"][0], rtol=1e-5)


def test_nan_is_a_failure():
    (result,) = predict(load(nan=True), pictures(1))
    assert str(result) == "the model returned NaN or infinity"


def test_pictures_of_clients_that_left_are_not_predicted():
    model, sizes = load(), []
    model.batched = sizes.append
    results = predict(model, pictures(1), pictures(1), pictures(1), gone={1})
    assert sizes == [1, 1]
    assert isinstance(results[1], Gone)


def test_a_model_for_single_pictures_gets_them_one_by_one():
    model, pixels = load(batch=1), pictures(3)
    _, result = predict(model, pictures(1), pixels)
    expected = np.concatenate([model.compute(each[None])["probabilities"] for each in pixels])
    np.testing.assert_array_equal(result.outputs["probabilities"][result.first :], expected)


def test_what_cannot_be_loaded_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"does not return what model\.json says: export it again"):
        load(outputs=[{"name": "probabilities", "dtype": "float32", "shape": [11]}])
    with pytest.raises(UserError, match=r"cannot be used \(.*\): export it again$"):
        load(outputs=[{"name": "mask", "dtype": "uint8", "shape": [8, 8]}])
    with pytest.raises(UserError, match=r"cannot be used \(.*\): export it again$"):
        load(classes=["a", "b"])
    version = Models(FOLDER).load(publish())
    version.model.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"cannot be used \(.*\): export it again$"):
        Model.load(version)
    version.info["file"] = "model.pt2"
    with pytest.raises(UserError, match="is no ONNX file: export it with --format onnx"):
        Model.load(version)


def test_an_observer_that_fails_fails_the_request_and_not_the_thread():
    model = load()
    model.observe = lambda *_: 1 / 0
    assert isinstance(predict(model, pictures(1))[0], ZeroDivisionError)
    model.observe = lambda *_: "seen"
    assert predict(model, pictures(1))[0].seen == "seen"
