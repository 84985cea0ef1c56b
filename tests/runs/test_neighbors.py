"""Embeddings: neighbors are those of scikit-learn, captions are right, and the projector's files can be read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor
from torch.nn.functional import normalize

from src.runs import neighbors
from src.runs.neighbors import Embedded, embeddings, labels, nearest, save_neighbors, save_projector, write_neighbors
from tests.conftest import needs_posix


def embedded(count: int = 30, size: tuple[int, int, int] = (1, 4, 4), seed: int = 0, prefix: str = "test/") -> Embedded:
    """Return random embeddings of the classes a and b; picture i is filled with the value i."""
    vectors = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    names, classes = [f"{prefix}{i}" for i in range(count)], ["ab"[i % 2] for i in range(count)]
    return Embedded(vectors, names, classes, lambda i: i.byte()[:, None, None, None].expand(-1, *size))


def test_neighbors_are_those_of_scikit_learn() -> None:
    queries, gallery = embedded(7, seed=1, prefix="query/"), embedded(300)
    similarities, index = nearest(queries, gallery, 8)
    oracle = NearestNeighbors(n_neighbors=8, metric="cosine").fit(gallery.vectors.double())
    distances, expected = oracle.kneighbors(queries.vectors.double())
    assert index.tolist() == expected.tolist()
    assert similarities.tolist() == pytest.approx(1 - distances)


@needs_posix
def test_a_picture_is_never_its_own_neighbor() -> None:
    Path("a.png").touch()
    Path("b.png").symlink_to("a.png")
    vectors, names = torch.ones(4, 2), ["a.png", "b.png", "./a.png", "c.png"]
    all_alike = Embedded(vectors, names, [""] * 4, lambda index: index)
    similarities, index = nearest(all_alike, all_alike, 8)
    assert index[:3, 0].tolist() == [3, 3, 3]  # the other names are the same file
    assert similarities[0].tolist() == pytest.approx([1] + 3 * [-torch.inf])
    assert index[3].tolist() == [0, 1, 2, 3]
    found = embedded(20)
    assert not (nearest(found, found, 20)[1][:, :19] == torch.arange(20)[:, None]).any()


@pytest.mark.parametrize("outputs", [[], [torch.ones(3)], [torch.ones(2, 3, 4)], [torch.eye(2), torch.eye(3)], ["a"]])
def test_only_rows_of_numbers_are_embeddings(outputs: list[Any]) -> None:
    assert embeddings(outputs) is embeddings(outputs, of_any_length=True) is None


def test_rows_of_length_1_are_embeddings_and_others_if_asked_for() -> None:
    logits = torch.randn(9, 4)
    assert embeddings([logits[:5], logits[5:]]) is None
    assert embeddings([logits[:5], logits[5:]], of_any_length=True).equal(logits)
    assert embeddings([normalize(logits)]).equal(normalize(logits))


def drawn(monkeypatch: pytest.MonkeyPatch, queries: Embedded, gallery: Embedded) -> Any:
    """Return the cells of the sheet, (queries, 1 + neighbors)."""
    figures: list[Any] = []
    monkeypatch.setattr(neighbors, "save_figure", lambda figure, _: figures.append(figure))
    save_neighbors(queries, gallery, Path("sheet.png"))
    return np.array(figures[0].axes).reshape(len(queries.names), -1)


def test_the_sheet_shows_pictures_similarities_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = embedded(6)
    found.classes[4] = ""
    similarities, index = nearest(found, found, 5)
    for i, (cells, order) in enumerate(zip(drawn(monkeypatch, found, found), index.tolist(), strict=True)):
        assert [cell.images[0].get_array().max() for cell in cells[:6]] == [i, *order]
        assert cells[0].get_xlabel() == f"test/{i}\n{found.classes[i]}"
        for cell, j, similarity in zip(cells[1:6], order, similarities[i].tolist(), strict=True):
            right = found.classes[i] == found.classes[j] != ""
            assert cell.get_xlabel() == f"{similarity:.3f}{' ✓' if right else ''}\n{found.classes[j]}"
            assert cell.get_frame_on() == right
        assert not cells[6:].tolist() or not cells[6].axison  # the picture itself


def test_odd_names_and_few_pictures_are_drawn_and_projected() -> None:
    gallery = embedded(2, (3, 6, 4))
    gallery.names[:], gallery.classes[:] = ["a\tb\n$x", "caf\udce9.png"], ["猫", ""]
    Path("out.csv").touch()
    write_neighbors(gallery, None, Path("out.csv"))
    with Image.open("out_neighbors.png") as sheet:
        assert sheet.width == 360  # the picture, its neighbor, and no third
    lines = Path("out_projector/00000/default/metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == ["image\tclass", "a b $x\t猫", "caf\\udce9.png\t"]


def test_nothing_is_written_next_to_a_pipe_or_of_one_picture() -> None:
    write_neighbors(embedded(), None, Path("pipe"))
    Path("out.csv").touch()
    write_neighbors(embedded(1), None, Path("out.csv"))
    assert sorted(path.name for path in Path().iterdir()) == ["configs", "out.csv"]
    write_neighbors(embedded(1), embedded(2, prefix="query/"), Path("out.csv"))
    assert Path("out_neighbors.png").is_file()


def test_tensorboard_reads_the_files_of_the_projector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "PROJECTED", 10)
    gallery = embedded(30)
    save_projector(gallery, Path("projector"))
    config = text_format.Parse(Path("projector/projector_config.pbtxt").read_text(encoding="utf-8"), ProjectorConfig())
    (info,) = config.embeddings
    written = torch.from_numpy(np.loadtxt(Path("projector", info.tensor_path), delimiter="\t", dtype=np.float32))
    assert written.allclose(gallery.vectors[:10], rtol=1e-5)
    lines = [
        line.split("\t") for line in Path("projector", info.metadata_path).read_text(encoding="utf-8").splitlines()
    ]
    assert lines == [["image", "class"], *([f"test/{i}", "ab"[i % 2]] for i in range(10))]
    assert [*info.sprite.single_image_dim] == [4, 4]
    with Image.open(Path("projector", info.sprite.image_path)) as image:
        sprite: Tensor = torch.from_numpy(np.array(image))
    tiles = sprite.unfold(0, 4, 4).unfold(1, 4, 4).flatten(0, 1)  # four rows of four
    assert [tile.unique().tolist() for tile in tiles[:10]] == [[i] for i in range(10)]


def test_the_class_of_a_picture_is_its_target_or_its_folder() -> None:
    names, roots = ["p/cat/1.png", "p/dog/2.png", "p/3.png"], [Path("p")]
    assert labels(names, ["cat", "eel"], roots, None) == ["cat", "", ""]
    assert labels(names, [], roots, None) == ["cat", "dog", "p"]
    assert labels(names[:1], [], roots, None) == [""]  # one folder says nothing
    assert labels(names, ["cat", "dog"], None, torch.tensor([1, 0, 1])) == ["dog", "cat", "dog"]
    assert labels(names, [], None, torch.tensor([7, 9, 8, 8])) == ["7", "9", "8"]
    assert labels(names, [], None, None) == ["", "", ""]
