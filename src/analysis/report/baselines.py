"""Baselines: what trivial models reach on the same test samples, and how much better the run is."""

import warnings
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np

from src import require
from src.analysis.outputs import Array, Outputs, differences, measured, score
from src.analysis.page import interval, p_text, percent, signed, subset

FILE = "baselines.json"
TRAIN = 10_000  # training samples of a model; more take longer than they tell
SIDE = 32  # height and width to which larger images are shrunk
COMPONENTS = 128  # principal components of wider inputs
PIXELS = 20_000  # training pixels of a model that classifies single pixels
CHUNK = 512  # images to read at once
WEAK = "The 95 % interval of the difference contains 0, or the run is worse."
Reduce = Callable[[Array], Array]


def measure_baselines(data: Any, o: Outputs) -> dict[str, Any]:
    """Train each trivial model on loaded data, and compare it with the run on the test samples of its outputs."""
    start = perf_counter()
    train, test = data.splits["train"], data.splits["test"]
    whole = np.arange(len(train))
    used = whole if len(train) <= TRAIN else np.sort(np.random.default_rng(0).choice(whole, TRAIN, replace=False))
    true = tested_targets(test, o)
    raw, inputs = features(train, used, data.holds_images)
    reduce, kept = reduction(raw)
    x, x_test = reduce(raw), features(test, np.arange(len(o)), data.holds_images, reduce)[0]
    predicted = [*masks_of(train, used, test, x, x_test, o)] if o.kind == "masks" else [*fit(train, used, x, x_test, o)]
    models = {}
    for name, preds in predicted:
        values = (preds == true).astype(float) if o.kind == "classes" else score(o.kind, preds, true, classes(o))[0]
        models[name] = Outputs(o.kind, values, np.zeros(len(o)), true[:0], true, o.test_set)
    gaps = differences((model, o) for model in models.values())
    rows = [{"name": n, **measured(model), **gap} for (n, model), gap in zip(models.items(), gaps, strict=True)]
    facts = {"identity": o.identity, "train": len(used), "of": len(train), "inputs": inputs + kept}
    return facts | {"seconds": round(perf_counter() - start, 1), "models": rows}


def classes(o: Outputs) -> int:
    return o.values.shape[1] if o.values.ndim > 1 else 0


def targets_of(samples: Any, positions: Array) -> Array:
    import torch  # slow to import; a page of what was measured needs none

    targets = samples.targets[samples.index[torch.as_tensor(positions)].to(samples.targets.device)].cpu().numpy()
    return targets.astype(np.uint8) if targets.ndim == 3 else targets


def tested_targets(test: Any, o: Outputs) -> Array:
    """Return the targets of the outputs from the test split; refuse a split that has changed since.

    Of masks, only the number of pixels of each class is compared.
    """
    true = targets_of(test, np.arange(min(len(o), len(test))))
    if o.kind == "masks":
        own, found = o.values[..., 0] + o.values[..., 2], score("masks", true, true, classes(o))[0][..., 0]
    else:
        own, found = o.targets.ravel(), true.ravel()
    same = own.shape == found.shape and np.allclose(own, found)
    require(same, "the test split is not the one that the run was tested on: restore it, or run test again")
    return true


def features(samples: Any, positions: Array, images: bool, reduce: Reduce = np.asarray) -> tuple[Array, str]:
    """Return the inputs (N, D) of samples, float32, and what they are; pixels in [0, 1], of images at most 32 x 32."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    rows, text = [], "pixels" if images else "inputs"
    for part in torch.as_tensor(positions).split(CHUNK):
        x = samples[part][1].cpu().float() / (255 if images else 1)
        if images and max(x.shape[2:]) > SIDE:
            x, text = adaptive_avg_pool2d(x, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3]))), f"pixels, {SIDE} x {SIDE}"
        rows.append(reduce(x.flatten(1).numpy()))
    return np.concatenate(rows), text


def reduction(x: Array) -> tuple[Reduce, str]:
    """Return a map to the principal components of inputs (N, D) if these are wide, and what it does."""
    from sklearn.decomposition import PCA  # slow to import

    if x.shape[1] <= COMPONENTS or len(x) <= COMPONENTS:
        return np.asarray, ""
    pca = PCA(COMPONENTS, svd_solver="randomized", random_state=0).fit(x)
    return pca.transform, f", {COMPONENTS} principal components"


def fit(train: Any, used: Array, x: Array, x_test: Array, o: Outputs) -> Iterator[tuple[str, Array]]:
    """Yield name and predictions of each trivial model of classes, labels, numbers or embeddings."""
    from sklearn.dummy import DummyClassifier, DummyRegressor  # slow to import
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    if o.kind == "embeddings":
        yield "inputs as embeddings", x_test
        return
    logistic, constant = LogisticRegression(max_iter=200), DummyClassifier(strategy="most_frequent")
    models: dict[str, Any]
    if o.kind == "numbers":
        models = {"mean": DummyRegressor(), "linear regression": LinearRegression()}
    elif o.kind == "classes":
        models = {"most frequent class": constant, "logistic regression": logistic}
    else:
        models = {"most frequent value of each label": constant}
        models["logistic regression of each label"] = OneVsRestClassifier(logistic)
    neighbor = KNeighborsRegressor if o.kind == "numbers" else KNeighborsClassifier
    models["nearest neighbor"] = neighbor(1, algorithm="brute")
    y, everything = (targets_of(train, each) for each in (used, np.arange(len(train))))
    for i, (name, model) in enumerate(models.items()):
        with warnings.catch_warnings(action="ignore"):  # of iterations that end, and of labels that are always the same
            model.fit(*(x, y) if i else (np.zeros((len(train), 1)), everything))
        yield name, model.predict(x_test)


def masks_of(train: Any, used: Array, test: Any, x: Array, x_test: Array, o: Outputs) -> Iterator[tuple[str, Array]]:
    """Yield name and predicted masks (N, H, W) of each trivial model."""
    import torch
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.neighbors import NearestNeighbors

    masks = targets_of(train, used)
    constant = np.stack([(masks == k).sum(0) for k in range(classes(o))]).argmax(0).astype(np.uint8)
    yield "most frequent class of each pixel", np.broadcast_to(constant, (len(o), *constant.shape))
    images = train[torch.as_tensor(used[:CHUNK])][1].cpu().numpy()
    colors, own = np.moveaxis(images, 1, -1).reshape(-1, images.shape[1]) / 255, masks[:CHUNK].ravel()
    some = np.random.default_rng(0).permutation(len(own))[:PIXELS]
    if len(np.unique(own[some])) > 1:
        model, found = LogisticRegression(max_iter=200).fit(colors[some], own[some]), []
        for part in torch.arange(len(o)).split(CHUNK):
            pixels = np.moveaxis(test[part][1].cpu().numpy(), 1, -1) / 255
            found.append(model.predict(pixels.reshape(-1, pixels.shape[-1])).reshape(pixels.shape[:3]))
        yield "logistic regression of each pixel", np.concatenate(found)
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(x).kneighbors(x_test, return_distance=False)
    yield "nearest neighbor", masks[nearest[:, 0]]


def baselines_section(facts: dict[str, Any], o: Outputs) -> dict[str, Any] | None:
    """Return figures and table of what was measured; None if that was of other predictions."""
    if facts.get("identity") != o.identity:
        return None
    rows, weak = [], []
    for each in facts["models"]:
        cells = [each["name"], percent(each["value"], o.kind), interval(each["interval"], o.kind)]
        cells += [signed(o.kind, each["difference"]), signed(o.kind, *each["difference_interval"])]
        rows.append([*cells, *([] if each["p"] is None else [p_text(each["p"])])])
        low, high = each["difference_interval"]
        weak += [each["name"]] if (high >= 0 if o.kind == "numbers" else low <= 0) else []
    used = f"{subset(facts['train'], facts['of'])} training samples ({facts['inputs']})"
    return {
        "figures": [row[:3] for row in rows],
        "rows": rows,
        "p": len(rows[0]) > 5,
        "note": f"Trained on {used} in {facts['seconds']:g} s.",
        "says": [(f"Not clearly better than {' and '.join(weak)}.", WEAK)] if weak else [],
    }
