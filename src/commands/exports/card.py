"""Card: what is told about a version, as model.json for programs and card.md for people."""

import json
import platform
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from src import read_json
from src.commands.exports.timing import Times
from src.runs.exports import FORMAT
from src.runs.summary import git, processor

PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")

CARD = """# {name}

{task}, exported as `{file}` from the run {run} at {created}, with the code of commit {commit}{changed}.

- takes pictures (N, {shape}), uint8, any number N at once; the file does the rest: {steps}
- returns {outputs}
{classes}
## How good it is

{metrics}
- {agreement}
{notes}
## How fast it is

Milliseconds for a batch of pictures, on one thread of {cpu}:

| | 1 picture | 64 pictures |
|---|--:|--:|
{times}

## How to use it

With `pictures` as above:

{calls}

A picture of another size is first scaled and cropped to its middle, as `src/decoding.py` does it.

## Limits

Its metrics are those of pictures like the test pictures. It answers for any other picture as well, such as one of
another camera, or of none of its classes. `reference.json` tells how the test pictures are distributed.
"""
CALLS = {
    "model.onnx": """\
    onnxruntime.InferenceSession("model.onnx").run(None, {"images": pictures})

or as a server: `python -m src.cli serve FOLDER`, the folder of all versions.""",
    "model.pt2": """\
    torch.export.load("model.pt2").module()(torch.from_numpy(pictures))""",
}


def describe(**found: Any) -> dict[str, Any]:
    """Return the content of model.json."""
    versions = {"python": platform.python_version()} | {
        name: metadata.version(name) for name in PACKAGES if find_spec(name)
    }
    code = {"commit": git("rev-parse", "HEAD") or "unknown", "dirty": bool(git("status", "--porcelain"))}
    return {"format": FORMAT} | found | {"versions": versions, **code, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


def trained_with(runs: list[Path]) -> list[dict[str, Any]]:
    """Return the commit of the code that trained each run, and whether it had changes, as provenance.json tells."""
    found = [read_json(run / "provenance.json", []) for run in runs]
    last = [entries[-1] for entries in found if entries and isinstance(entries[-1], dict)]
    return [{"commit": each.get("git_commit") or "unknown", "dirty": bool(each.get("git_dirty"))} for each in last]


def changed(info: dict[str, Any]) -> str:
    """Return what the card says about code that its commit does not have."""
    texts = [" and changes that were not committed"] if info["dirty"] else []
    others = [each for each in info["trained_with"] if each != {"commit": info["commit"], "dirty": info["dirty"]}]
    for each in others[:1]:
        more = " with changes that were not committed" if each["dirty"] else ""
        texts.append(f"; trained with that of commit {each['commit']}{more}")
    return "".join(texts)


def write(folder: Path, info: dict[str, Any], times: Times, notes: list[str]) -> None:
    """Write model.json and card.md into a folder."""
    (folder / "model.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    returned = [f"`{each['name']}` {('N', *each['shape'])}, {each['dtype']}" for each in info["outputs"]]
    names, tta = info["classes"] or [], "" if info["tta"] == "plain" else f"test-time augmentation ({info['tta']}), "
    listed = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    text = CARD.format(
        **{key: info[key] for key in ("name", "task", "run", "created", "commit", "file")},
        changed=changed(info),
        shape=", ".join(map(str, info["input"]["shape"])),
        steps=f"normalization, {tta}the net, and from its outputs to {info['kind']}",
        outputs=" and ".join(returned).replace("'", ""),
        classes=f"- classes: {listed}\n" if names else "",
        metrics="\n".join(f"- {name}: {interval(each)}" for name, each in info["metrics"].items()) or "- no metric",
        agreement=agreement(info["parity"]),
        notes="".join(f"- {note}\n" for note in notes),
        cpu=processor(),
        times="\n".join(f"| {name} | {each['1']:.3f} | {each['64']:.3f} |" for name, each in times.items()),
        calls=CALLS[info["file"]],
    )
    (folder / "card.md").write_text(text, encoding="utf-8")


def agreement(parity: dict[str, Any]) -> str:
    text = f"differs from predict by at most {parity['max_difference']:.1e} in {parity['samples']:,} test pictures"
    return f"{text}, in {parity['disagreements']} decisions"


def interval(m: dict[str, Any]) -> str:
    spread = "" if m["low"] is None else f", 95 % between {m['low']:.4f} and {m['high']:.4f}, {m['samples']:,} samples"
    return f"{m['value']:.4f}{spread}"
