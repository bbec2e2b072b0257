"""Starts of the YOLO line from the authors' files, and without them."""

import numpy as np
import pytest

from repro import backend, paths
from repro.engine import starts
from repro.engine.checkpoint import weights_of
from repro.errors import NoDataError, ReproError
from repro.files import sha256_of
from repro.models import darknet
from repro.models.darknet import Conv
from repro.records.run import Run
from repro.records.settings import Network
from repro.tasks.networks import build
from repro.weights.darknet import file_layers
from tests.support.small_yolo import settings, shorten


@pytest.fixture(scope="module")
def network():
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        return build(Network(name="yolo_v2", input_size=(64, 64), width=1 / 32), 7, 3, "train")


def backbone_file(network, layers):
    """The bytes of a .weights file of the first layers."""
    parts = [part for layer in file_layers(network)[:layers] for part in layer.parts]
    rng = np.random.default_rng(0)
    values = [rng.uniform(0.5, 1.5, part.size).astype("<f4").tobytes() for part in parts]
    return np.array([0, 2, 0, 0, 0], "<i4").tobytes() + b"".join(values)


def start(network, init="imagenet", name="yolo_v2"):
    config = settings(init=init, network=Network(name=name, input_size=(64, 64)), sizes=())
    return starts.initialise(network, name, init, Run("start", config, 0, profile="smoke", backend=backend.name()))


def test_imagenet_is_the_authors_file(network, monkeypatch):
    content, before = backbone_file(network, 5), weights_of(network)
    archive = starts.DARKNET_BACKBONES["yolo_v2"][0]
    monkeypatch.setitem(starts.DARKNET_BACKBONES, "yolo_v2", (archive, 5))
    monkeypatch.setattr(starts, "fetch", lambda archive, path: path.write_bytes(content))
    init, seen = start(network)
    path = paths.data_dir() / "darknet" / "darknet19_448.conv.23"
    assert (init.source, init.sha256, seen) == ("imagenet", sha256_of(path), 0)
    assert init.note == "5 layers of darknet19_448.conv.23"
    changed = {name.partition("/")[0] for name, value in weights_of(network).items() if (value != before[name]).any()}
    assert changed == {f"{kind}{n}" for kind in ("conv", "bn") for n in range(1, 6)}

    content = backbone_file(network, 3)
    with pytest.raises(ReproError, match="fills 3 layers of yolo_v2, its backbone has 5"):
        start(network)
    content += b"1234"
    with pytest.raises(ReproError, match="darknet19_448"):
        start(network)


def test_without_the_file_the_start_is_random_and_says_so(network, monkeypatch):
    def refuse(archive, path):
        raise NoDataError(f"{archive.url} cannot be fetched (no network)", "put it there")

    monkeypatch.setattr(starts, "fetch", refuse)
    before = weights_of(network)
    notes = {}
    for name in ("yolo_v1", "fast_yolo", "yolo_v2", "yolo_v3"):
        init, seen = start(network, name=name)
        assert (init.source, init.sha256, seen) == ("random", None, 0)
        notes[name] = init.note
    assert notes["yolo_v2"].startswith("no ImageNet weights: https://pjreddie.com/media/files/darknet19_448.conv.23")
    assert "darknet53.conv.74" in notes["yolo_v3"]
    assert "extraction.conv.weights" in notes["yolo_v1"]
    assert "fast_yolo" in notes["fast_yolo"]
    for name, value in weights_of(network).items():
        np.testing.assert_array_equal(value, before[name])

    path = paths.data_dir() / "darknet" / "darknet19_448.conv.23"
    path.write_bytes(b"something else")
    with pytest.raises(NoDataError):  # put there by hand, and wrong
        start(network)
    assert start(network, "random")[0].source == "random"


def test_the_sizes_of_the_files_are_those_their_layers_give():
    """Darknet's header, 16 or 20 bytes, and four bytes a number: of each filter four of its batch normalisation."""
    for name, header, rows in (
        ("yolo_v2", 16, darknet.darknet19_rows()),
        ("yolo_v3", 20, darknet.darknet53_rows()),
    ):
        archive, layers = starts.DARKNET_BACKBONES[name]
        convolutions = [row for row in rows if isinstance(row, Conv)]
        inputs = [3, *(row.filters for row in convolutions)]
        numbers = sum(
            row.filters * (row.size**2 * before + 4) for row, before in zip(convolutions, inputs, strict=False)
        )
        assert len(convolutions) == layers
        assert archive.size == header + 4 * numbers
