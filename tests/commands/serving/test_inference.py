"""The Open Inference Protocol, by Triton's client and by wrong requests."""

import json
import re

import numpy as np
import pytest

from src.commands.serving.app import App
from tests.served import CLASSES, call, publish, running, settings

PATH = "/v2/models/digits/infer"
PIXELS = np.random.default_rng(0).integers(0, 255, (7, 1, 8, 8), np.uint8)


@pytest.fixture
def app() -> App:
    publish()
    return App(settings())


def body(**changes) -> bytes:
    entry = {"name": "images", "datatype": "UINT8", "shape": [7, 1, 8, 8], "data": PIXELS.ravel().tolist()} | changes
    return json.dumps({"inputs": [entry]}).encode()


def test_tritons_client_works_unchanged():
    triton = pytest.importorskip("tritonclient.http")
    publish()
    with running() as (server, port), triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.is_model_ready("digits", "1")
        assert not client.is_model_ready("digits", "2")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]
        described = client.get_model_metadata("digits")
        assert described["versions"] == ["1"]
        assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}]
        assert described["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
        expected = server.app.versions.current.compute(PIXELS)["probabilities"]
        given = triton.InferInput("images", list(PIXELS.shape), "UINT8")
        for sent in (True, False):
            given.set_data_from_numpy(PIXELS, binary_data=sent)
            for got in (True, False):
                wanted = [triton.InferRequestedOutput("probabilities", binary_data=got)]
                found = client.infer("digits", [given], outputs=wanted, request_id="mine")
                np.testing.assert_allclose(found.as_numpy("probabilities"), expected, rtol=1e-6)
                assert found.get_response()["id"] == "mine"
        found = client.infer("digits", [given], model_version="1")
        np.testing.assert_allclose(found.as_numpy("probabilities"), expected, rtol=1e-6)
        for got in (True, False):
            wanted = [triton.InferRequestedOutput("probabilities", binary_data=got, class_count=2)]
            rows = client.infer("digits", [given], outputs=wanted).as_numpy("probabilities")
            value, index, name = (rows[3, 0].decode() if got else rows[3, 0]).split(":")
            assert rows.shape == (7, 2)
            assert (int(index), name) == (expected[3].argmax(), CLASSES[expected[3].argmax()])
            assert float(value) == pytest.approx(expected[3].max(), abs=1e-6)
        small = triton.InferInput("images", [1, 1, 1, 8], "UINT8").set_data_from_numpy(PIXELS[:1, :, :1])
        with pytest.raises(
            triton.InferenceServerException, match=r"the input must be images, UINT8 \[1 to 256, 1, 8, 8\]"
        ):
            client.infer("digits", [small])


def test_data_may_be_flat_or_nested(app):
    (status, _, flat), (_, _, nested) = (call(app, "POST", PATH, each) for each in (body(), body(data=PIXELS.tolist())))
    assert status == 200
    assert flat == nested


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe{",
        b'{"inputs": null}',
        b'{"inputs": []}',
        b'{"inputs": [1]}',
        body(name="other"),
        body(datatype="FP32"),
        body(shape=[7, 8, 8]),
        body(shape=[7.0, 1, 8, 8]),
        body(shape=[True, 1, 8, 8]),
        body(shape=[10**30, 1, 8, 8]),
        body(shape=[0, 1, 8, 8], data=[]),
        body(shape=[257, 1, 8, 8]),
        body(data=PIXELS.ravel().tolist()[1:]),
        body(data=[256] * 448),
        body(data=[-1] * 448),
        body(data=[0.5] * 448),
        body(data=[float("nan")] * 448),
        body(data=["0"] * 448),
        body(data=[[1], [2, 3]]),
        body(data=[10**400] * 448),
        body(data=None),
        body(parameters=[1]),
        body(parameters={"binary_data_size": 448}),
        body(parameters={"binary_data_size": -1}),
        body()[:-1] + b', "id": 1}',
        body()[:-1] + b', "outputs": {}}',
        body()[:-1] + b', "outputs": [{"name": "other"}]}',
        body()[:-1] + b', "outputs": [{"name": "probabilities"}, {"name": "probabilities"}]}',
        body()[:-1] + b', "outputs": [{"name": "probabilities", "parameters": {"classification": -1}}]}',
    ],
    ids=range(33),
)
def test_a_wrong_request_is_refused_in_one_line(app, wrong):
    status, _, found = call(app, "POST", PATH, wrong)
    assert status == 400
    assert found["error"].startswith("not an inference request: ")
    assert "\n" not in found["error"]


def test_an_error_names_no_type_of_python(app):
    for wrong in (b"[]", b'{"inputs": [1, 2]}', b'{"inputs": [1]}', body(shape=3), body(parameters=[])):
        error = call(app, "POST", PATH, wrong)[2]["error"]
        assert not re.search("indices|unpack|object is not|attribute", error), error


def test_json_that_takes_long_to_parse_is_refused(app):
    many = b'{"parameters": {"a": [' + b"{}," * 700_000 + b"{}]}}"
    assert call(app, "POST", PATH, many)[0] == 413


@pytest.mark.parametrize("size", ["-1", "0", "9999999", "x", "1e3"])
def test_a_wrong_length_of_the_json_is_refused(app, size):
    assert call(app, "POST", PATH, body(), inference_header_content_length=size)[0] == 400


def test_a_candidate_of_another_shape_gets_no_pixels():
    publish()
    publish(shape=(1, 4, 4), current=False)
    app = App(settings(canary=1.0))
    assert len(app.versions.loaded) == 2
    assert call(app, "POST", PATH, body())[2]["model_version"] == "1"
    publish(seed=1, current=False)
    app.versions.update(*app.versions.find())
    assert call(app, "POST", PATH, body())[2]["model_version"] == "3"
    assert call(app, "POST", "/v2/models/digits/versions/1/infer", body())[2]["model_version"] == "1"


def test_a_failing_candidate_is_replaced_by_the_current_version():
    publish()
    publish(fails_from=1, current=False)
    app = App(settings(canary=1.0))
    pixels = PIXELS.copy()
    pixels[:, 0, 0, 0] = 9
    status, _, found = call(app, "POST", PATH, body(data=pixels.ravel().tolist()))
    assert (status, found["model_version"]) == (200, "1")
    assert "serve_failures_total 1\n" in app.metrics.text()
