"""The description of the server for programs, OpenAPI 3.1: each path with all its replies."""

from math import prod
from typing import Any
from urllib.parse import quote

from src.commands.serving.messages import SANE_ID
from src.commands.serving.settings import Settings
from src.runs.exports import Version

Json = dict[str, Any]
TEXT, NUMBER, LIST, OBJECT = {"type": "string"}, {"type": ["number", "null"]}, {"type": "array"}, {"type": "object"}
NUMBERS, PROBABILITIES = LIST | {"items": NUMBER}, OBJECT | {"additionalProperties": NUMBER}
PNG = TEXT | {"contentEncoding": "base64", "contentMediaType": "image/png"}
ID = TEXT | {"pattern": f"^{SANE_ID.pattern.decode()}$".replace(r"\w", "A-Za-z0-9_")}
ANSWERS: dict[str, Json] = {  # of src.runs.answers
    "classes": {"prediction": TEXT, "probability": NUMBER, "probabilities": PROBABILITIES},
    "labels": {"prediction": LIST | {"items": TEXT}, "probabilities": PROBABILITIES},
    "numbers": {"prediction": {"anyOf": [NUMBER, NUMBERS]}},
    "masks": {"prediction": PROBABILITIES, "mask": PNG},
    "embeddings": {"embedding": NUMBERS},
    "images": {"image": PNG},
    "values": {"values": OBJECT},
}
ERRORS = {
    400: "no valid request",
    401: "no key or a wrong one",
    408: "the body was too slow",
    413: "too many bytes or pixels",
    415: "of no known format",
    422: "a damaged picture, or an unknown class",
    431: "the head is too long",
    500: "the model fails on this picture",
    503: "busy, or about to stop",
}


def obj(optional: tuple[str, ...] = (), /, **properties: Any) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def extensible(**properties: Any) -> Json:
    """Return an object of the Open Inference Protocol, which may have parameters and more."""
    return {"type": "object", "properties": {**properties, "parameters": OBJECT}, "required": [*properties]}


def operation(summary: str, ok: Json, body: Json | None = None, media: str = "application/json") -> Json:
    """Return an operation with a reply that is ``ok``, and one line of error for each other status."""
    error = {"application/json": {"schema": obj(error=TEXT | {"minLength": 1})}}
    replies: Json = {"200": {"description": "done", "content": {media: {"schema": ok}}}}
    for status in (400, 408, 413, 415, 422, 431, 500, 503) if body else (400, 431, 503):
        replies[str(status)] = {"description": ERRORS[status], "content": error}
    found: Json = {"summary": summary, "responses": replies}
    found["parameters"] = [{"name": "X-Request-Id", "in": "header", "schema": TEXT}]
    return found | ({"requestBody": {"required": True, "content": body}} if body else {})


def inference(version: Version) -> Json:
    """Return the operation of the Open Inference Protocol, without its binary extension."""
    info, shape = version.info, [1, *version.shape]
    byte = {"type": "integer", "minimum": 0, "maximum": 255}
    data: Json = {"type": "array", "items": byte, "minItems": prod(shape), "maxItems": prod(shape)}
    given = {"name": {"const": info["input"]["name"]}, "datatype": {"const": "UINT8"}, "shape": {"const": shape}}
    inputs = {"type": "array", "items": extensible(**given, data=data), "minItems": 1, "maxItems": 1}
    asked = extensible(name={"enum": [each["name"] for each in info["outputs"]]})
    request = extensible(inputs=inputs)
    request["properties"] |= {
        "id": TEXT,
        "outputs": {"type": "array", "items": asked, "maxItems": len(info["outputs"])},
    }
    output = obj(name=TEXT, datatype=TEXT, shape=LIST, data=LIST)
    reply = obj(("id",), model_name=TEXT, model_version=TEXT, id=TEXT, outputs=LIST | {"items": output})
    return operation("Predict pixels", reply, {"application/json": {"schema": request}})


def document(version: Version, settings: Settings) -> Json:
    """Return the whole description, for the current version of the model."""
    name, info = quote(version.info["name"]), version.info
    answer = obj(id=TEXT, model=TEXT, version={"type": "integer"}, **ANSWERS[info["kind"]])
    file = TEXT | {"format": "binary", "minLength": 1}
    form = {"type": "object", "properties": {"file": file}, "required": ["file"]}
    picture = {"application/octet-stream": {"schema": file}, "multipart/form-data": {"schema": form}}
    known: Json = {"enum": info["classes"]} if info["classes"] else {}
    given: Json = {"classes": known, "labels": {"anyOf": [known, LIST | {"items": known}]}}.get(info["kind"], {})
    label = {"application/json": {"schema": obj(id=ID, label=given)}}
    ready = {"get": operation("Ready for requests", obj(ready={"const": True}))}
    paths: Json = {
        "/predict": {"post": operation("Predict a picture", answer, picture)},
        "/metrics": {"get": operation("Counters for Prometheus", TEXT, media="text/plain")},
        "/v2": {"get": operation("Describe the server", OBJECT)},
        "/v2/health/live": {"get": operation("Alive", obj(live={"const": True}))},
        "/v2/health/ready": ready,
    }
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{version.number}"):
        paths[path] = {"get": operation("Describe the model", OBJECT)}
        paths |= {f"{path}/ready": ready, f"{path}/infer": {"post": inference(version)}}
    if settings.records:
        paths["/feedback"] = {"post": operation("Tell the right label", obj(id=TEXT, label={}), label)}
    found: Json = {"openapi": "3.1.0", "info": {"title": info["name"], "version": str(version.number)}, "paths": paths}
    return found | (lock(paths) if settings.keys else {})


def lock(paths: Json) -> Json:
    """Let all operations need a key but those of health; return how keys are sent."""
    error = {"application/json": {"schema": obj(error=TEXT | {"minLength": 1})}}
    for path, methods in paths.items():
        for each in methods.values():
            if not path.endswith(("/live", "/ready")):
                each["security"] = [{"key": []}, {"bearer": []}]
                each["responses"]["401"] = {"description": ERRORS[401], "content": error}
    bearer = {"type": "http", "scheme": "bearer"}
    return {
        "components": {
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}, "bearer": bearer}
        }
    }
