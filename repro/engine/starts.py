"""Where the weights of a run start: at random, on ImageNet, or from another run."""

import fcntl
import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

from repro import paths, registry
from repro.data.download import Archive, fetch
from repro.engine import checkpoint
from repro.errors import NoDataError, ReproError
from repro.files import sha256_of
from repro.records.result import Init
from repro.records.run import Run, weights_path
from repro.weights.darknet import read_weights

_SITE = "https://pjreddie.com/media/files"


def _published(filename: str, size: int = 0, checksum: str = "") -> Archive:
    return Archive("darknet", f"{_SITE}/{filename}", size, size, checksum)


_DARKNET19 = "9b8b4d2e15200d7be487c85d70e18c6be6fffbd1401e9b4eb48e8e0f585d1a1a"
_DARKNET53 = "2495c2690283e4e0bc2050cbd4660b77a8074e14e9c11150c6412fd63db496a7"
# by detector: its backbone's file, and how many convolutions that has. The authors publish no checksums: these are of
# copies of the files, whose sizes are those the layers give. Of extraction's no whole copy was found.
DARKNET_BACKBONES = {
    "yolo_v1": (_published("extraction.conv.weights"), 20),
    "yolo_v2": (_published("darknet19_448.conv.23", 79_327_120, f"sha256:{_DARKNET19}"), 18),
    "yolo_v3": (_published("darknet53.conv.74", 162_482_580, f"sha256:{_DARKNET53}"), 52),
}


def initialise(network: keras.Model, name: str, init: str, run: Run) -> tuple[Init, int]:
    """Give a fresh network of an architecture the start that its settings name. Returns what the result says of it, and
    the images seen before.

    Raises ReproError when weights do not fit."""
    if init == "random":
        return Init(source="random"), 0
    if init == "imagenet":
        return imagenet(network, name), 0
    parent = run.parents[init]
    arrays, _ = checkpoint.load_arrays(weights_path(parent))
    copied = checkpoint.load_weights(network, arrays, parent.run_id, partial=True)
    note = f"{copied} of {len(network.weights)} variables"
    return Init(source=init, sha256=parent.weights_sha256, note=note), int(parent.metrics["chain_images_seen"])


def imagenet(network: keras.Model, name: str) -> Init:
    """Weights of ImageNet for a network's backbone: of `keras.applications`, or the authors' own for the YOLO line.
    Without them the network stays as it is, and the note says why.

    Raises ReproError when a file does not fit: a network of another width or depth, or half a file."""
    backbone = registry.architecture(name).backbone
    if name in DARKNET_BACKBONES:
        return _darknet(network, name)
    if backbone == "vgg16":
        from repro.models.vgg import from_keras_applications

        return _keras_applications(network, "VGG16", from_keras_applications)
    if backbone == "resnet101":
        from repro.models.resnet import from_keras_applications

        return _keras_applications(network, "ResNet101", from_keras_applications)
    return Init(source="random", note=f"no ImageNet weights are known for {name}")


def _keras_applications(network: keras.Model, name: str, copy: Any) -> Init:
    try:
        source = getattr(keras.applications, name)(weights="imagenet")
    except Exception as error:  # Keras raises bare Exception when a download fails
        return Init(source="random", note=f"no ImageNet weights: {str(error).splitlines()[0][:100]}")
    note = f"{copy(network, source)} layers of keras.applications.{name}"
    digest = hashlib.sha256()
    for array in source.get_weights():
        digest.update(np.ascontiguousarray(array).data)
    return Init(source="imagenet", sha256=digest.hexdigest(), note=note)


def _darknet(network: keras.Model, name: str) -> Init:
    """The authors' file, `darknet/<file>` of the data folder, downloaded where it is not there."""
    archive, layers = DARKNET_BACKBONES[name]
    path = paths.data_dir() / "darknet" / archive.filename
    problem = _missing(archive, path)
    if problem:
        return Init(source="random", note=f"no ImageNet weights: {problem[:120]}")
    filled = read_weights(path, network, partial=True)
    if filled != layers:
        raise ReproError(f"{path} fills {filled} layers of {name}, its backbone has {layers}", "give the whole file")
    return Init(source="imagenet", sha256=sha256_of(path), note=f"{filled} layers of {archive.filename}")


def _missing(archive: Archive, path: Path) -> str:
    """Fetch a file unless it is there. Returns what stands in the way, "" for nothing.

    Raises NoDataError when a file put there by hand is not the published one."""
    present = path.exists()
    if not archive.checksum:
        return "" if present else f"{archive.url} has no known checksum, put it into darknet/ of the data folder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f".{path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here and then finds the file
            fetch(archive, path)
    except (NoDataError, OSError) as error:
        if present:
            raise
        return " ".join(str(error).split())
    return ""
