"""The description of the server says what it does."""

import pytest

from src.commands.serving.app import App
from tests.served import call, picture, publish, settings

KINDS = {
    "classes": ([10], ["probabilities"]),
    "numbers": ([10], ["probabilities"]),
    "embeddings": ([10], ["probabilities"]),
    "values": ([10], ["probabilities"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_replies_are_as_described(kind):
    jsonschema = pytest.importorskip("jsonschema")
    publish(kind=kind)
    app = App(settings())
    paths = call(app, "GET", "/openapi.json")[2]["paths"]
    for body in (picture(), b"text", b"", picture()[:60]):
        status, headers, found = call(app, "POST", "/predict", body)
        (media, reply), *_ = paths["/predict"]["post"]["responses"][str(status)]["content"].items()
        assert headers["content-type"] == media
        jsonschema.validate(found, reply["schema"])
    for path, methods in paths.items():
        if "get" in methods:
            status, headers, found = call(app, "GET", path)
            (media, reply), *_ = methods["get"]["responses"]["200"]["content"].items()
            assert (status, headers["content-type"].partition(";")[0]) == (200, media)
            jsonschema.validate(found.decode() if isinstance(found, bytes) else found, reply["schema"])


def test_keys_and_feedback_are_described_where_they_exist():
    publish()
    plain, closed = (call(App(settings(**how)), "GET", "/openapi.json")[2] for how in ({}, {"keys": (b"0",)}))
    assert "/feedback" not in plain["paths"]
    assert "401" in closed["paths"]["/predict"]["post"]["responses"]
    assert "401" not in closed["paths"]["/v2/health/ready"]["get"]["responses"]
    assert "securitySchemes" in closed["components"]
