"""Card: what is told about a version, as model.json for programs and card.md for people."""

import json
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from src.commands.exports.files import Outputs
from src.runs.exports import FORMAT
from src.runs.summary import git

PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")

CARD = """# {name}

{task} of the run {run}, exported {created} from commit {commit} as `{file}`.

- takes pictures (N, {input}), uint8, of any number N; normalization{tta} are part of the file
- returns {outputs}
- {classes}

## How good it is

{metrics}

- {agreement}
{notes}

## How fast it is

Milliseconds for a batch of pictures, one thread of {cpu}:

{times}

## How to use it

    python -m src.cli serve {folder}
{call}

## Limits

It answers for any picture, also for those unlike its training pictures, such as other cameras or classes.
{metric_limit}`serve` compares pictures with `reference.json` and tells when they drift.
"""
CALLS = {
    "model.onnx": """
    session = onnxruntime.InferenceSession("model.onnx")
    session.run(None, {"images": pictures})  # uint8""",
    "model.pt2": """
    torch.export.load("model.pt2").module()(pictures)  # uint8""",
}


def reference(info: dict[str, Any], pictures: Any, outputs: Outputs) -> dict[str, Any]:  # noqa: ARG001
    """Return what drift is measured against: histograms of the test pictures and of the answers to them."""
    return {}


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def describe(**found: Any) -> dict[str, Any]:
    """Return the content of model.json."""
    commit, created = git("rev-parse", "HEAD"), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {"format": FORMAT} | found | {"versions": versions(), "commit": commit, "created": created}


def write(folder: Path, info: dict[str, Any], times: dict[str, dict[str, float]], notes: list[str], to: Path) -> None:
    """Write model.json and card.md into a folder; ``to`` is where the version will be."""
    (folder / "model.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    metrics = [f"- {name}: {interval(each)}" for name, each in info["metrics"].items()]
    shapes = [
        f"`{each['name']}` (N{''.join(f', {n}' for n in each['shape'])}), {each['dtype']}" for each in info["outputs"]
    ]
    names = info["classes"] or []
    listed = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    ms = [f"| {name} | {each['1']:.3f} | {each['64']:.3f} |" for name, each in times.items()]
    text = CARD.format(
        **{key: info[key] for key in ("name", "task", "run", "created", "commit", "file", "parity")},
        input=", ".join(map(str, info["input"]["shape"])),
        tta="" if info["tta"] == "plain" else f" and test-time augmentation ({info['tta']})",
        outputs=" and ".join(shapes),
        classes=f"classes: {listed}" if names else "no classes",
        metrics="\n".join(metrics) or "No metric: the test set has no targets for it.",
        agreement=agreement(info["parity"]),
        notes="\n".join(f"- {note}" for note in notes),
        cpu=platform.processor() or platform.machine(),
        times="\n".join(["| | batch 1 | batch 64 |", "|---|--:|--:|", *ms]),
        folder=to.as_posix(),
        call=CALLS[info["file"]],
        metric_limit="Its metrics are those of the test set alone. ",
    )
    (folder / "card.md").write_text(text, encoding="utf-8")


def agreement(parity: dict[str, Any]) -> str:
    text = f"at most {parity['max_difference']:.1e} from predict in {parity['samples']:,} test pictures"
    return f"{text}, {parity['disagreements']} decisions differ"


def interval(m: dict[str, Any]) -> str:
    spread = "" if m["low"] is None else f", 95 % between {m['low']:.4f} and {m['high']:.4f}, {m['samples']:,} samples"
    return f"{m['value']:.4f}{spread}"
