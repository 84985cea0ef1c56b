"""Which request gets which reply."""

import io
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from src.analysis.drift import looks, reference
from src.commands.serving.app import App
from src.decoding import decode
from src.runs.records import Records
from tests.served import CLASSES, call, calls, picture, publish, settings

KEY = "0123456789abcdef"


@pytest.fixture
def app() -> App:
    publish()
    return App(settings())


def events(capsys: pytest.CaptureFixture[str], app: App) -> list[dict]:
    app.log.flush()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_answer_is_that_of_the_model(app):
    status, headers, found = call(app, "POST", "/predict", picture(), x_request_id="mine-1")
    pixels = decode(io.BytesIO(picture()), (1, 8, 8))
    (row,) = app.versions.current.compute(pixels[None])["probabilities"]
    assert status == 200
    assert headers["x-request-id"] == found["id"] == "mine-1"
    assert (found["model"], found["version"], found["prediction"]) == ("digits", 1, CLASSES[row.argmax()])
    assert list(found["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-6)


def test_requests_at_the_same_time_get_their_own_answers(app):
    alone = [call(app, "POST", "/predict", picture(i))[2]["probabilities"].values() for i in range(20)]
    together = calls(app, *[("POST", "/predict", picture(i), {}) for i in range(20)])
    found = [[*each[2]["probabilities"].values()] for each in together]
    np.testing.assert_allclose(found, [[*each] for each in alone], atol=2e-6)


def test_a_bad_picture_fails_its_own_request_only(app):
    bodies = [picture(0), b"no picture", picture(1)[:60], picture(2), b""]
    assert [each[0] for each in calls(app, *[("POST", "/predict", body, {}) for body in bodies])] == [
        200,
        415,
        422,
        200,
        400,
    ]


@pytest.mark.parametrize("given", ["", "a b", "é", "x" * 65, '"'])
def test_an_odd_request_id_is_replaced(app, given):
    found = call(app, "POST", "/predict", picture(), x_request_id=given)[2]["id"]
    assert len(found) == 24
    assert found != given


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("OPTIONS", "/predict", 405),
        ("POST", "/", 405),
        ("GET", "/predict/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("POST", "/feedback", 404),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/digits/versions/2/infer", 404),
        ("POST", "/v2/models/digits/versions/\u0661/infer", 404),
        ("HEAD", "/", 200),
        ("GET", "/", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/v2", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/v2/models/digits", 200),
        ("GET", "/v2/models/digits/ready", 200),
        ("GET", "/v2/models/digits/versions/1/ready", 200),
    ],
)
def test_the_status_of_each_path(app, method, path, status):
    found, headers, content = call(app, method, path)
    assert found == status
    if status >= 400:
        assert list(content) == ["error"]
        assert "\n" not in content["error"]
    assert ("allow" in headers) == (status == 405)


def test_a_long_body_is_refused_before_and_while_it_comes(app):
    app.settings.__dict__["max_body"] = 100
    assert call(app, "POST", "/predict", bytes(101))[0] == 413
    assert call(app, "POST", "/predict", bytes(101), content_length="1")[0] == 413
    assert app.predictor.held == 0


def test_bodies_that_fill_the_memory_are_refused(app, monkeypatch):
    monkeypatch.setattr("src.commands.serving.predictor.ALL_BODIES", 0)
    status, headers, _ = call(app, "POST", "/predict", picture())
    assert (status, headers["retry-after"]) == (503, "1")
    assert app.predictor.held == 0


def test_more_pictures_than_allowed_are_refused(app):
    app.settings.__dict__["max_in_flight"] = 3
    found = calls(app, *[("POST", "/predict", picture(), {})] * 5)
    assert sorted(each[0] for each in found) == [200, 200, 200, 503, 503]
    assert app.predictor.in_flight == 0
    assert call(app, "POST", "/predict", picture())[0] == 200


def test_compressed_bodies_are_refused(app):
    assert call(app, "POST", "/predict", picture(), content_encoding="gzip")[0] == 415


def test_while_it_drains_the_server_predicts_but_is_not_ready(app):
    app.draining = True
    status, headers, _ = call(app, "POST", "/predict", picture())
    assert (status, headers["connection"]) == (200, "close")
    assert call(app, "GET", "/v2/health/ready")[0] == 503
    assert call(app, "GET", "/v2/health/live")[0] == 200


def test_a_model_that_fails_is_an_error_of_the_server(capsys):
    publish(fails_from=100)
    app = App(settings())
    assert call(app, "POST", "/predict", picture(first=50))[0] == 200
    status, _, found = call(app, "POST", "/predict", picture(first=100))
    assert status == 500
    assert found["error"].startswith("the model failed: ")
    assert "serve_failures_total 1\n" in app.metrics.text()
    assert [each["status"] for each in events(capsys, app) if "status" in each] == [200, 500]


def test_a_bug_is_logged_and_answered_in_one_line(app, monkeypatch, capsys):
    monkeypatch.setattr(app.predictor, "slot", lambda: 1 / 0)
    assert call(app, "POST", "/predict", picture())[::2] == (500, {"error": "a bug of the server: see its log"})
    assert "ZeroDivisionError" in events(capsys, app)[0]["event"]


def test_keys_open_everything_but_health_and_the_page():
    publish()
    app = App(settings(keys=(sha256(b"another key, also valid").digest(), sha256(KEY.encode()).digest())))
    for path in ("/", "/openapi.json", "/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready"):
        assert call(app, "GET", path)[0] == 200
    for path in ("/metrics", "/v2", "/v2/models/digits"):
        status, headers, _ = call(app, "GET", path)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
    for headers in (
        {},
        {"x_api_key": "0"},
        {"x_api_key": "é"},
        {"authorization": KEY},
        {"authorization": "Basic " + KEY},
    ):
        assert call(app, "POST", "/predict", picture(), **headers)[0] == 401
    for headers in ({"x_api_key": KEY}, {"authorization": "bearer  " + KEY}):
        assert call(app, "POST", "/predict", picture(), **headers)[0] == 200


def test_the_log_has_one_line_for_each_request_without_pictures_or_keys(app, capsys):
    call(app, "POST", "/predict", picture(), x_request_id="mine", x_api_key="secret")
    call(app, "GET", '/"\n' + "x" * 300)
    first, second = events(capsys, app)
    assert {**first, "time": 0, "ms": 0} == {
        "time": 0, "id": "mine", "method": "POST", "path": "/predict", "status": 200, "ms": 0, "version": 1,
        "bytes": len(picture()),
    }  # fmt: skip
    assert second["path"] == '/"\n' + "x" * 197
    assert second["version"] is None


def test_records_and_feedback_are_written():
    publish()
    app = App(settings(records=Path("kept"), keep_images=True))
    found = call(app, "POST", "/predict", picture(), x_request_id="one")[2]
    call(app, "POST", "/predict", picture(1))
    label = json.dumps({"id": "one", "label": "7"}).encode()
    assert call(app, "POST", "/feedback", label, content_type="application/json")[0] == 200
    first, second = Records(Path("kept")).read()
    assert (first["id"], first["label"], first["version"], first["prediction"]) == ("one", "7", 1, found["prediction"])
    assert set(first["traits"]) >= {"brightness", "confidence", "class"}
    assert "label" not in second
    assert Records(Path("kept")).kept(first).read_bytes() == picture()


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        (b'{"id": "a", "label": "7"}', "text/plain", 415),
        (b'{"id": "a", "label": "eleven"}', "application/json", 422),
        (b'{"id": "a", "label": ["7"]}', "application/json", 422),
        (b'{"id": "a b", "label": "7"}', "application/json", 400),
        (b'{"id": "a"}', "application/json", 400),
        (b'{"id": 1, "label": "7"}', "application/json", 400),
        (b"[", "application/json", 400),
    ],
)
def test_wrong_feedback_is_refused(body, media, status):
    publish()
    assert call(App(settings(records=Path("kept"))), "POST", "/feedback", body, content_type=media)[0] == status


FINITE = "the label must be a number, got "


@pytest.mark.parametrize(
    ("kind", "shape", "label", "error"),
    [
        ("numbers", [1], "12.5", None),
        ("numbers", [1], "3", None),
        ("numbers", [1], "NaN", "feedback must be"),
        ("numbers", [1], "1e999", FINITE + "Infinity"),
        ("numbers", [1], "1" + 400 * "0", FINITE + "1000"),
        ("numbers", [1], "true", FINITE + "true"),
        ("numbers", [1], '"x"', FINITE + '"x"'),
        ("numbers", [1], "[1]", FINITE + "[1]"),
        ("numbers", [2], "[1, 2.5]", None),
        ("numbers", [2], "[1]", "the label must be 2 numbers, got [1]"),
        ("numbers", [2, 2], "[[1, 2], [3, 4]]", None),
        ("numbers", [2, 2], "[[1, 2], [3]]", "the label must be 2x2 numbers"),
        ("classes", [10], "3", 'the label must be of the classes ["0", "1"'),
        ("labels", [10], '["3", "4"]', None),
        ("labels", [10], "[]", None),
        ("masks", [8, 8], '"3"', "feedback is for classes, labels and numbers"),
    ],
)
def test_feedback_must_be_comparable_with_predictions(kind, shape, label, error):
    publish()
    app = App(settings(records=Path("kept")))
    info = {"kind": kind, "outputs": [{"name": "x", "dtype": "float32", "shape": shape}]}
    app.versions.current.version.info.update(info)
    body = f'{{"id": "a", "label": {label}}}'.encode()
    status, _, found = call(app, "POST", "/feedback", body, content_type="application/json")
    assert found["error"].startswith(error) if error else status == 200


def test_feedback_on_the_classes_of_a_candidate_is_kept():
    publish()
    app = App(settings(records=Path("kept"), canary=1.0))
    publish(current=False, classes=[f"n{i}" for i in range(10)])
    app.versions.update(*app.versions.find())
    for label in ("n9", "9"):
        body = json.dumps({"id": "a", "label": label}).encode()
        assert call(app, "POST", "/feedback", body, content_type="application/json")[0] == 200


def test_lost_records_are_counted_and_lost_feedback_is_not_thanked_for(capsys):
    publish()
    app = App(settings(records=Path("kept")))
    Path("kept").write_text("in the way", encoding="utf-8")
    assert call(app, "POST", "/predict", picture())[0] == 200
    label = b'{"id": "a", "label": "7"}'
    assert call(app, "POST", "/feedback", label, content_type="application/json")[0] == 503
    assert "serve_records_lost_total 2\n" in app.metrics.text()
    assert capsys.readouterr().err.count("warning: records are lost") == 1


def test_the_page_may_run_only_what_is_written_in_it(app):
    policy = call(app, "GET", "/")[1]["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("low", [0.9, None])
@pytest.mark.parametrize("value", [0.95, None])
def test_the_page_shows_metrics_with_and_without_interval(low, value):
    publish(metrics={"test/loss": {"value": value, "low": low, "high": low and 0.99, "samples": low and 1000}})
    status, _, page = call(App(settings()), "GET", "/")
    assert status == 200
    assert (b"95 % between 0.9 and 0.99, 1,000 samples" in page) == bool(low and value)
    assert (b">undefined<" in page) == (value is None)


def test_drift_is_counted_and_logged(capsys):
    bright = np.random.default_rng(0).integers(200, 256, (1000, 1, 8, 8), np.uint8)
    publish(reference=reference(looks(bright)))
    app = App(settings())
    for i in range(500):
        app.versions.current.observe(np.full((1, 1, 8, 8), i % 5, np.uint8), {"probabilities": np.full((1, 10), 0.1)})
    assert "serve_drift_checked_total 500\n" in app.metrics.text()
    app.tick()
    assert 'serve_drifting{worker="0"} 3\n' in app.metrics.text()
    (event,) = events(capsys, app)
    assert event["event"].startswith("drift in version 1: ")
    publish()
    app.versions.update(*app.versions.find())
    app.tick()
    assert 'serve_drifting{worker="0"} 0\n' in app.metrics.text()
