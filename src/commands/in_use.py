"""What records tell of a model in use, for ``report`` and ``check``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src import read_json
from src.analysis.outputs import Outputs
from src.analysis.page import clipped, interval, p_text, percent, picture
from src.analysis.report.in_use import Record, in_use, reference_of, shrunk
from src.runs.records import Records
from src.runs.summary import Rows

LEVEL = 0.05  # of the p-value below which accuracy in use differs from that on the test set
LETTERS = 24  # of a file name on the page


def of_run(records: Records, run: Path, o: Outputs) -> "InUse":
    """Return what records tell of the model of a run, which may be served in several versions."""
    name = "/".join(run.resolve().parts[-2:])
    return InUse(records, lambda record: record.get("run") == name, o)


class InUse:
    """Facts on the records of a model; those of others are left out.

    Args:
        records: of any model.
        belongs: tells those of the model.
        o: what the test of the model returned, if known.
        reference: of the test set, unless the version that was served is in models; by default that of ``o``.
    """

    def __init__(
        self, records: Records, belongs: Callable[[Record], bool], o: Outputs | None, reference: Record | None = None
    ) -> None:
        self.records, others, own = records, 0, []
        for each in records.read():
            own += [shrunk(each)] if belongs(each) else []
            others += not belongs(each)
        self.facts: dict[str, Any] = {"records": len(own), "others": others}
        if own:
            version = Path("models", str(own[-1].get("model")), str(own[-1].get("version")))
            known, served = "the test set", read_json(version / "reference.json", {})
            if served.get("traits"):
                reference, known = served, str(version)
            reference = reference or (reference_of(o) if o else {"traits": {}})
            self.facts |= in_use(own, o, reference, known)

    def file(self, record: Record) -> Path | None:
        """Return the picture of a record, if it was kept or is still where it was."""
        named = Path(str(record.get("name", "")))
        return self.records.kept(record) or (named if named.is_file() else None)

    def rows(self) -> Rows:
        """Return what the terminal shows."""
        facts = self.facts
        others = f", {facts['others']:,} of other models left out" if facts["others"] else ""
        found = [("records", f"{facts['records']:,}{others}")]
        if facts["records"]:
            found.append(("", f"from {facts['from'][:16]} to {facts['to'][:16]}"))
            found += [("" if i else "in use", text) for i, text in enumerate(sentences(facts))]
        for i, each in enumerate(facts.get("next", [])[:5]):
            found.append(("" if i else "label next", f"{self.label(each)}  {uncertain(each)}"))
        return found

    def label(self, record: Record) -> str:
        return str(self.file(record) or record.get("name") or record["id"])

    def section(self) -> dict[str, Any]:
        """Return what the page shows, with thumbnails of the pictures whose files are there."""
        facts, items = self.facts, []
        for each in facts.get("next", []):
            file, name = self.file(each), self.label(each)
            items.append({"images": thumbnail(file, name), "lines": [uncertain(each), clipped(name, LETTERS)]})
        table = []
        for each in (facts.get("drift") or {"traits": []})["traits"]:
            medians = ["" if each["trait"] == "class" else f"{each[key]:.4g}" for key in ("reference", "median")]
            table.append([each["trait"], *medians, p_text(each["p"]), "yes" if each["drifts"] else "no"])
        note = f"Records: {facts['records']:,}. Of other models, left out: {facts['others']:,}."
        return {"note": note, "says": sentences(facts), "drift": table, "pictures": items}


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """Return accuracy and drift in use, a sentence each."""
    found, f, d = [], facts.get("feedback"), facts.get("drift")
    if f:
        kind = "numbers" if f["metric"] != "accuracy" else "classes"
        text = f"{f['metric'].capitalize()} {percent(f['value'], kind)} ({interval(f['interval'], kind)})"
        found.append(f"{text} on {f['samples']:,} picture{'s' if f['samples'] != 1 else ''} with feedback.")
        if f.get("p") is not None:
            differs = "That differs" if f["p"] < LEVEL else "That is not known to differ"
            p = f"p {'' if f['p'] < 1e-4 else '= '}{p_text(f['p'])}"
            found.append(f"{differs} from {percent(f['test'], kind)} on {f['test_samples']:,} test samples ({p}).")
    if d:
        names = ", ".join(each["trait"] for each in d["traits"] if each["drifts"])
        text = f"Drift of {names}" if names else "No drift"
        text += f" in the newest {d['samples']:,} picture{'s' if d['samples'] != 1 else ''}, against {d['reference']}"
        text += (
            f"; {d['alarms']:,} of {d['windows']:,} windows of {d['samples']:,} had drift" if d["windows"] > 1 else ""
        )
        found.append(f"{text}.")
    return found


def uncertain(record: Record) -> str:
    return f"{' or '.join(record['close'])}, margin {record['margin']:.3f}"


def thumbnail(file: Path | None, name: str) -> list[dict[str, Any]]:
    """Return a small picture of a file for the page; none if there is no file, or a damaged one."""
    from PIL import Image

    try:
        if file is None:
            return []
        with Image.open(file) as image:
            image.draft("RGB", (96, 96))
            image.thumbnail((96, 96))
            return [picture(np.asarray(image.convert("RGB")), name)]
    except Exception:  # decoders raise any
        return []
