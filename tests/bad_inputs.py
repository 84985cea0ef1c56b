"""Command lines, config files and configs with foreign code, all of them invalid, and what each is answered."""

from pathlib import Path

from tests.bad_settings import SETTINGS

NET = "model: {class_path: src.tasks.Classifier, init_args: {num_classes: 10, net: %s}}"
COMMANDS = {
    "misspelled command": (["fitt"], "unknown command 'fitt', did you mean fit?"),
    "no model": (["fit"], "model is required; choose a config with --config"),
    "setting without a config": (["fit", "--lr=1"], "unknown setting --lr=1; choose model and data with --config FILE"),
    "name of a config": (["fit", "--config=digits"], "digits does not exist, did you mean configs/digits.yaml?"),
    "preset without its folder": (
        ["fit", "--config=ema"],
        "ema does not exist, did you mean configs/presets/ema.yaml?",
    ),
    "misspelled config": (["fit", "--config", "configs/digit.yaml"], "config configs/digit.yaml does not exist"),
    "test of random weights": (["test", "--config", "configs/digits.yaml"], "test needs a trained model"),
    "validation of random weights": (["validate", "--config", "configs/digits.yaml"], "validate needs a trained model"),
    "prediction of random weights": (["predict", "--config", "configs/digits.yaml"], "predict needs a trained model"),
    "images for fit": (["fit", "--images", "a.png"], "--images is an option of predict, not of fit"),
    "folder as an output file": (["show", "--output", "."], "--output must be a file, got the folder ."),
    "config as a run": (["test", "--run", "configs/digits.yaml"], "use --config configs/digits.yaml"),
    "long path of a run": (["test", f"--run={'a' * 300}"], "File name too long"),
    "soup of no runs": (["test", "--config=configs/digits.yaml", "--soup"], "--soup needs several runs"),
    "option without a value": (["fit", "--run"], "--run: expected one argument"),
}
FILES = {  # contents of a config file
    "unclosed brace": (b"trainer: {max_epochs: 1\nmodel: 2\n", "line 2: invalid YAML"),
    "image file": (b"\x89PNG\r\n\x1a\n\x00\x00", "is not UTF-8 text"),
    "null bytes": (b"\x00\x01\x02", "invalid YAML: unacceptable character"),
    "template braces": (b"trainer: {{ value }}\n", "a key must be a word"),
    "empty file": (b"", "must hold settings, 'key: value', got nothing"),
    "empty section": (
        b"data: src.data.Digits\ntrainer:\n",
        "line 2: trainer must hold settings, 'key: value', got nothing",
    ),
    "word for a section": (b"best: val/loss\n", "line 1: best must hold settings, 'key: value', got val/loss"),
    "empty run name": (b"name:\n", "line 1: name must be a word, got nothing"),
    "list": (b"- 1\n- 2\n", "must hold settings, 'key: value', got sequence"),
    "duplicate key": (
        b"trainer:\n  max_epochs: 1\n  devices: 1\n  max_epochs: 2\n",
        "line 4: key 'max_epochs' is already set in line 2",
    ),
    "misspelled section": (b"modle: {}\n", "unknown setting modle, did you mean model?"),
    "setting at the top": (
        NET.replace("10,", "10, optimizer: torch.optim.SGD,").encode() % b"src.nets.SmallCNN"
        + b"\nlr: 1\nepochs: 2\nbatch_size: 3\n",
        "line 2: unknown setting lr, did you mean model.optimizer.lr?",
    ),
    "epochs at the top": (b"epochs: 2\n", "line 1: unknown setting epochs, did you mean trainer.max_epochs?"),
    "rate of a class without it at the top": (
        b"model: {class_path: tests.conftest.PlainModule}\nlr: 1\n",
        "line 2: unknown setting lr, did you mean model.lr?",
    ),
    "rate of no model at the top": (b"lr: 2\n", "unknown setting lr; the settings at the top are seed_everything, "),
    "nested brackets": (b"model: " + b"[" * 3000 + b"]" * 3000, "is nested too deeply"),
    "aliases of aliases": (
        b"\n".join(
            [b"a: &a [1]", *(b"%c: &%c [%s]" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in b"abcdefgh")]
        ),
        "has more than 100,000 values",
    ),
    "recursive alias": (b"data: &a [*a]\n", "has an alias that contains itself"),
    "section without a class": (
        b"model: {class_path: src.tasks.Classifier, init_args: {net: src.nets.SmalCNN}}\n",
        "did you mean src.nets.SmallCNN?",
    ),
}
INIT = "model: {class_path: src.tasks.Classifier, init_args: {num_classes: 10, net: src.nets.SmallCNN, init: %s}}"
LOGGER = "trainer: {logger: {class_path: lightning.pytorch.loggers.%s}}"
CALLBACK = "trainer: {callbacks: [{class_path: %s}]}"
FUNCTIONS = (  # of trusted packages, but not harmless
    "torch.os.system",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.load",
    "torch.sys.exit",
    "torch.utils.collect_env.run",
    "torch.hub.download_url_to_file",
    "torch.jit.CompilationUnit",
    "torch.serialization.pickle.load",
    "torch.nn.init.torch.load",
    "torch.nn.functional.warnings.warn",
    "torchvision.datasets.utils.extract_archive",
    "torchvision.utils.save_image",
    "lightning.pytorch.cli.instantiate_class",
    "lightning.pytorch.utilities.migration.migrate_checkpoint",
    "lightning.fabric.utilities.cloud_io.get_filesystem",
    "lightning.pytorch.core.saving.save_hparams_to_yaml",
    "torch.save",
    "torch.from_file",
    "torch.jit.load",
    "torch.serialization.load",
    "torch.ops.load_library",
    "torch.classes.load_library",
    "torch.compile",
    "torch.multiprocessing.spawn",
    "torch.distributed.run.main",
    "torch.utils.model_zoo.load_url",
    "torch.nn.functional.boolean_dispatch",
    "torch.nn.functional.handle_torch_function",
    "torch.nn.functional.importlib.import_module",
    "torch.nn.Module.__init__",
    "torchvision.io.write_file",
    "torchvision.datasets.utils.download_url",
    "torchvision.datasets.folder.pil_loader",
    "lightning.pytorch.LightningModule.load_from_checkpoint",
    "lightning.pytorch.seed_everything",
    "lightning.pytorch.core.saving.load_hparams_from_yaml",
    "src.cli.main",
    "src.load_run",
    "src.config.load.load_run",
    "src.runs.folder.write_atomically",
    "src.data.loading.image_files.save_atomically",
    "src.nets.init.compile_pattern",
    "tests.bad_inputs.build",
    "tools.faults.main",
)
CLASSES = (  # of trusted packages, but of no kind that a config needs
    "torch.package.PackageImporter",
    "torch.utils.data.DataLoader",
    "torch.utils.tensorboard.SummaryWriter",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.cli.LightningCLI",
    "src.engine.progress.ResumedCSVLogger",
    "src.runs.folder.Path",
    "tests.processes.Process",
    "tests.processes.Launched",
)
DOORS = {  # configs that run code or write files; given/near.yaml, other.yaml and other.txt name evil.Net
    "class path": "model: {class_path: evil.Net}",
    "short class path": "model: evil.Net",
    "namespace package": "model: {class_path: folder.evil.Net}",
    "net": NET % "{class_path: evil.Net}",
    "callback": CALLBACK % "evil.Net",
    "logger": "trainer: {logger: {class_path: subprocess.Popen, init_args: {args: touch ran}}}",
    "function": INIT % "os.system",
    "string of YAML": "trainer: {callbacks: '[{class_path: evil.Net}]'}",
    "string in a string": """model: '"{class_path: evil.Net}"'""",
    "built-in": "model: {class_path: builtins.eval}",
    "anchor": "data: &evil evil.Net\nmodel: *evil",
    "argument of any type": INIT % "{class_path: src.nets.Init, init_args: {settings: {std: {class_path: evil.Net}}}}",
    "another file": "model: other.yaml",
    "file with another suffix": "model: other.txt",
    "file next to the config": "model: near.yaml",
    "file that names itself": "data: bad.yaml\nmodel: evil.Net",
    "compiler": "data: src.data.Digits\ncompile: {options: {cpp.cxx: [touch ran]}}",
    "folder of the best checkpoint": "best: {dirpath: ran}",
    "folder of the last checkpoint": "last: {dirpath: runs/other/version_0/checkpoints}",
    "folder of ModelCheckpoint": CALLBACK % "lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: ran}",
    "file of ModelCheckpoint": CALLBACK % "lightning.pytorch.callbacks.ModelCheckpoint, init_args: {filename: ../ran}",
    "folder of a CSV logger": LOGGER % "CSVLogger, init_args: {save_dir: ran}",
    "parent folder of a CSV logger": LOGGER % "CSVLogger, init_args: {save_dir: runs/../ran}",
    "absolute folder of a CSV logger": LOGGER % "CSVLogger, init_args: {save_dir: /tmp/ran}",
    "version of a CSV logger": LOGGER % "CSVLogger, init_args: {save_dir: runs, name: digits, version: version_0}",
    "empty version of a CSV logger": LOGGER % "CSVLogger, init_args: {save_dir: ., name: '', version: ''}",
    "name of a TensorBoard logger": LOGGER % "TensorBoardLogger, init_args: {save_dir: runs, name: ../ran}",
    "address of a logger": LOGGER % "MLFlowLogger, init_args: {tracking_uri: 'http://host/x'}",
    "database elsewhere": LOGGER % "MLFlowLogger, init_args: {tracking_uri: 'sqlite:///runs/../ran.db'}",
    "folder of a profiler": (
        "trainer: {profiler: {class_path: lightning.pytorch.profilers.SimpleProfiler, init_args: {dirpath: .}}}"
    ),
    "folder of the picture cache": "data: {class_path: src.data.ImageFolder, init_args: {root: x, cache: /tmp/ran}}",
    "address of a folder": "trainer: {default_root_dir: 'ftp://host/ran'}",
    "address of images": "data: {class_path: src.data.ImageFolder, init_args: {root: 's3://bucket/x'}}",
    "function or text": CALLBACK % "lightning.pytorch.callbacks.ModelPruning, init_args: {pruning_fn: evil.Net}",
    "class in dict_kwargs": NET % "{class_path: src.nets.SmallCNN, dict_kwargs: {activation: {class_path: evil.Net}}}",
    "class as a merged key": "model:\n  <<: {class_path: evil.Net}",
    "function of a schedule": CALLBACK
    % "lightning.pytorch.callbacks.LambdaCallback, init_args: {on_fit_start: os.system}",
    "number of a version": LOGGER % "CSVLogger, init_args: {save_dir: runs, name: digits, version: 0}",
    "folder inside the logs": LOGGER % "TensorBoardLogger, init_args: {save_dir: runs, sub_dir: ../../ran}",
    "suffix of the logs": LOGGER % "TensorBoardLogger, init_args: {save_dir: runs, filename_suffix: /../../ran}",
    "chained address": CALLBACK
    % "lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: 'simplecache::file:/ran'}",
    "network folder": CALLBACK % "lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: //host/share}",
    "checkpoint of an exception": CALLBACK
    % "lightning.pytorch.callbacks.OnExceptionCheckpoint, init_args: {dirpath: ran}",
    "file of excluded batches": (
        CALLBACK % "lightning.pytorch.callbacks.SpikeDetection, init_args: {exclude_batches_path: runs/../ran.json}"
    ),
    "hook of a strategy": (
        "trainer: {strategy: {class_path: lightning.pytorch.strategies.DDPStrategy, init_args: "
        "{ddp_comm_hook: os.system}}}"
    ),
    "compiler of torch.compile": "compile: {options: {cpp.cxx: [./evil.sh]}}",
    "download elsewhere": "data: {class_path: src.data.MNIST, init_args: {root: ~/ran}}",
    "download above": "data: {class_path: src.data.CIFAR10, init_args: {root: ../../ran}}",
    "tag": "model: !!python/object/apply:os.system [touch ran]",
}
DOORS |= {f"function {name}": INIT % name for name in FUNCTIONS} | {f"class {name}": NET % name for name in CLASSES}
PASSED = (  # values that only look like code or like files elsewhere
    "data: {class_path: src.data.ImageFolder, init_args: {root: test.images, cache: data/cache}}",
    "data: {class_path: src.data.ImageFolder, init_args: {root: /data/os.path}}",
    "trainer: {profiler: {class_path: lightning.pytorch.profilers.SimpleProfiler, init_args: {filename: profile.txt}}}",
    CALLBACK % "lightning.pytorch.callbacks.ModelCheckpoint, init_args: {filename: os.path, monitor: val/loss}",
    LOGGER % "CSVLogger, init_args: {save_dir: runs/csv, name: evil.Net}",
    "name: os.v2",
    "trainer: {default_root_dir: /tmp/elsewhere}",
    CALLBACK % "lightning.pytorch.callbacks.ThroughputMonitor, init_args: {batch_size_fn: torch.nn.functional.relu}",
    CALLBACK % "lightning.pytorch.callbacks.ModelPruning, init_args: {pruning_fn: l1_unstructured, amount: 0.1}",
    CALLBACK % "lightning.pytorch.callbacks.ModelCheckpoint, init_args: {filename: 'a..b-{epoch}', monitor: val/loss}",
    CALLBACK % "lightning.pytorch.callbacks.Timer, init_args: {duration: '00:01:00:00'}",
    "data: {class_path: src.data.MNIST, init_args: {root: /tmp}}",
    "data: {class_path: src.data.MNIST, init_args: {root: downloads/mnist}}",
    "data: {class_path: src.data.ImageFolder, init_args: {root: ~/photos}}",
    "data: {class_path: src.data.ImageFolder, init_args: {root: ../photos}}",
    LOGGER % "CSVLogger, init_args: {save_dir: runs, name: '', prefix: a/b}",
    "name: v1..2/a",
    INIT % "torch.nn.init.orthogonal_",
    NET % "{class_path: torchvision.models.resnet18, init_args: {num_classes: 10}}",
    "data: {class_path: src.data.Digits, init_args: {augment: [torchvision.transforms.v2.RandomGrayscale]}}",
)


def commands(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Write the invalid configs into a folder; return the arguments to run there and the expected messages, by name."""
    found = {name: (["fit", "--config=configs/digits.yaml", *args], text) for name, (args, text) in SETTINGS.items()}
    for i, (name, (content, text)) in enumerate(FILES.items()):
        (folder / f"bad_{i}.yaml").write_bytes(content)
        found[name] = ["fit", f"--config=bad_{i}.yaml"], text
    return found | COMMANDS


def build(door: str, folder: Path) -> Path:
    """Write a config and a module that creates the file ``ran`` when it is imported."""
    (folder / "folder").mkdir(parents=True)
    for place in (folder, folder / "folder"):
        (place / "evil.py").write_text(
            "from pathlib import Path\nPath('ran').touch()\nfrom src.nets import MLP as Net\n", encoding="utf-8"
        )
    (folder / "given").mkdir()
    for name in ("other.yaml", "other.txt", "given/near.yaml"):
        (folder / name).write_text("class_path: evil.Net", encoding="utf-8")
    (folder / "given/bad.yaml").write_text(DOORS[door], encoding="utf-8")
    return Path("given/bad.yaml")
