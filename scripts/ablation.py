"""Train the CIFAR-10 recipe with and without each of its parts over several seeds; update the table in docs/recipes.md.

python -m scripts.ablation --root FOLDER --epochs 8 --seeds 0 1 2 [any setting of fit]

Finished runs are kept: after Ctrl-C, the same command continues with the next one.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

CONFIG = "configs/cifar10.yaml"
SGD = (
    '{"class_path": "torch.optim.SGD", '
    '"init_args": {"lr": 0.1, "momentum": 0.9, "nesterov": true, "weight_decay": 5e-4}}'
)
VARIANTS = {  # arguments that change the recipe
    "recipe": [],
    "without augmentation": ["--data.augment=[]"],
    "with mixup": ["--config=configs/presets/mixup.yaml"],
    "with EMA": ["--config=configs/presets/ema.yaml"],
    "constant learning rate instead of one-cycle": ["--model.schedule=null"],
    "SGD instead of Muon": ["--model.groups=null", f"--model.optimizer={SGD}"],
    "without label smoothing": ["--model.loss.label_smoothing=0"],
    "with cutmix": ["--config=configs/presets/cutmix.yaml"],
    "with test-time augmentation": ["--model.tta=mirror_shift"],
}
TABLE = Path("docs/recipes.md")
BEGIN, END = "<!-- ablation: begin -->\n", "<!-- ablation: end -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder of the data")
    parser.add_argument("--epochs", type=int, default=8, help="epochs per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each variant")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="folder to write the runs to")
    options, settings = parser.parse_known_args()
    options.settings = settings  # of fit
    for seed in options.seeds:
        for name, changes in VARIANTS.items():
            train(folder(options, name, seed), seed, options, [*changes, *options.settings])
            write(table(options))


def folder(options: argparse.Namespace, name: str, seed: int) -> Path:
    settings = [f"{options.epochs}_epochs", *(setting.lstrip("-") for setting in options.settings)]
    return options.runs / "_".join(settings).replace("/", "_") / name.replace(" ", "_") / f"seed_{seed}"


def train(run: Path, seed: int, options: argparse.Namespace, changes: list[str]) -> None:
    """Train one variant in its own folder, unless it has finished there."""
    if any(run.glob("version_*/results.json")):
        return
    command = [sys.executable, "-m", "src.cli", "fit", f"--config={CONFIG}", "--model.tta=plain", *changes]
    command += [
        f"--seed_everything={seed}",
        f"--data.root={options.root}",
        f"--trainer.max_epochs={options.epochs}",
        f"--name={run.name}",
    ]
    subprocess.run([*command, f"--trainer.default_root_dir={run.parent}"], check=True)


def table(options: argparse.Namespace) -> str:
    """Return a row for each variant: mean and std of the test accuracy, and the difference from the recipe."""
    lines = ["| variant | test accuracy | vs. recipe | seeds | minutes per run |", "|---|--:|--:|--:|--:|"]
    means: dict[str, float] = {}
    for name in VARIANTS:
        files = [f for seed in options.seeds for f in folder(options, name, seed).glob("version_*/results.json")]
        results = [json.loads(file.read_text()) for file in files]
        if not results:
            continue
        accuracies = [100 * result["test/accuracy"] for result in results]
        means[name] = statistics.mean(accuracies)
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(results) > 1 else ""
        change = "" if name == "recipe" else f"{means[name] - means['recipe']:+.2f}"
        minutes = statistics.median(result["seconds"] for result in results) / 60
        lines.append(f"| {name} | {means[name]:.2f}{spread} % | {change} | {len(results)} | {minutes:.0f} |")
    return "\n".join(lines) + "\n"


def write(rows: str) -> None:
    text = TABLE.read_text()
    before, rest = text.split(BEGIN)
    TABLE.write_text(before + BEGIN + rows + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
