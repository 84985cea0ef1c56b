"""Train variants of a config over several seeds; update their table in docs/recipes.md.

python -m scripts.ablation --root FOLDER --epochs 8 --seeds 0 1 2 [any setting of fit]
python -m scripts.ablation --study imbalance --root FOLDER --epochs 10 --seeds 0 1 2

Studies: recipe (configs/cifar10.yaml with and without each of its parts) and imbalance (configs/mnist_imbalanced.yaml).

Finished runs are kept: after Ctrl-C, the same command continues with the next one.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SGD = (
    '{"class_path": "torch.optim.SGD", '
    '"init_args": {"lr": 0.1, "momentum": 0.9, "nesterov": true, "weight_decay": 5e-4}}'
)


@dataclass
class Study:
    """A config, the settings that each variant changes, and the results whose mean each column of the table has."""

    config: str
    columns: dict[str, list[str]]
    variants: dict[str, list[str]]


STUDIES = {
    "recipe": Study(
        "configs/cifar10.yaml",
        {"test accuracy": ["test/accuracy"]},
        {
            "recipe": [],
            "without augmentation": ["--data.augment=[]"],
            "with mixup": ["--config=configs/presets/mixup.yaml"],
            "with EMA": ["--config=configs/presets/ema.yaml"],
            "constant learning rate instead of one-cycle": ["--model.schedule=null"],
            "SGD instead of Muon": ["--model.groups=null", f"--model.optimizer={SGD}"],
            "without label smoothing": ["--model.loss.label_smoothing=0"],
            "with cutmix": ["--config=configs/presets/cutmix.yaml"],
            "with test-time augmentation": ["--model.tta=mirror_shift"],
        },
    ),
    "imbalance": Study(
        "configs/mnist_imbalanced.yaml",
        {
            "balanced accuracy": ["test/recall"],
            "recall of 7 to 9": [f"test/recall/{name}" for name in ("seven", "eight", "nine")],
        },
        {
            "plain": [],
            "balanced class weights": ["--model.class_weights=balanced"],
            "focal loss": ["--model.loss=src.losses.FocalLoss"],
            "weighted sampling": ["--data.sampling=weighted"],
            "balanced sampling": ["--data.sampling=balanced"],
        },
    ),
}
TABLE = Path("docs/recipes.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=STUDIES, default="recipe", help="what to compare")
    parser.add_argument("--root", default="data", help="folder of the data")
    parser.add_argument("--epochs", type=int, default=8, help="epochs per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each variant")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="folder to write the runs to")
    options, settings = parser.parse_known_args()
    options.settings = settings  # of fit
    for seed in options.seeds:
        for name, changes in STUDIES[options.study].variants.items():
            train(folder(options, name, seed), seed, options, [*changes, *options.settings])
            write(options.study, table(options))


def folder(options: argparse.Namespace, name: str, seed: int) -> Path:
    settings = [f"{options.epochs}_epochs", *(setting.lstrip("-") for setting in options.settings)]
    settings = settings if options.study == "recipe" else [options.study, *settings]
    return options.runs / "_".join(settings).replace("/", "_") / name.replace(" ", "_") / f"seed_{seed}"


def train(run: Path, seed: int, options: argparse.Namespace, changes: list[str]) -> None:
    """Train one variant in its own folder, unless it has finished there."""
    if any(run.glob("version_*/results.json")):
        return
    config = f"--config={STUDIES[options.study].config}"
    command = [sys.executable, "-m", "src.cli", "fit", config, "--model.tta=plain", *changes]
    command += [
        f"--seed_everything={seed}",
        f"--data.root={options.root}",
        f"--trainer.max_epochs={options.epochs}",
        f"--name={run.name}",
    ]
    subprocess.run([*command, f"--trainer.default_root_dir={run.parent}"], check=True)


def table(options: argparse.Namespace) -> str:
    """Return a row for each variant: mean and std of each column; the first also minus that of the first row."""
    study = STUDIES[options.study]
    first, *_ = study.variants
    head = ["variant", *study.columns, f"vs. {first}", "seeds", "minutes per run"]
    lines = [f"| {' | '.join(head)} |", "|---|" + (len(head) - 1) * "--:|"]
    means: dict[str, float] = {}
    for name in study.variants:
        files = [f for seed in options.seeds for f in folder(options, name, seed).glob("version_*/results.json")]
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        if not results:
            continue
        columns = study.columns.values()
        values = [[100 * statistics.mean(each[key] for key in keys) for each in results] for keys in columns]
        means[name] = statistics.mean(values[0])
        change = "" if name == first else f"{means[name] - means[first]:+.2f}"
        minutes = statistics.median(result["seconds"] for result in results) / 60
        cost = [str(len(results)), f"{minutes:.{0 if minutes >= 1 else 1}f}"]
        lines.append(f"| {' | '.join([name, *map(cell, values), change, *cost])} |")
    return "\n".join(lines) + "\n"


def cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} %"


def write(study: str, rows: str) -> None:
    begin, end = (f"<!-- {study}: {edge} -->\n" for edge in ("begin", "end"))
    before, rest = TABLE.read_text(encoding="utf-8").split(begin)
    TABLE.write_text(before + begin + rows + end + rest.split(end)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
