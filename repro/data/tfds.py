"""Data sets that TensorFlow Datasets fetches and keeps, and two for classification: Imagenette and ImageNet 2012.

Records are read still encoded and decoded here, so that one decoder serves both of TFDS's file formats.
"""

import abc
import base64
import contextlib
import hashlib
import http.client
import importlib.util
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from repro import backend, paths
from repro.data.base import Info, Sample, known_split
from repro.data.download import check_room
from repro.data.images import decode_image
from repro.errors import NoDataError, ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


class Records(Protocol):
    """Records by index: a data source of TFDS, or one of ours."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class TfdsDataset(abc.ABC):
    """A builder of TFDS: fetching, keeping and reading its records. A subclass names the builder, says what its
    published version holds and makes samples of records.

    `builder` is `name/config`, `stored` names TFDS's split behind each of ours, `encoded` the features read as the
    bytes of a picture and `id_feature` the one that names a picture. `counts` are the published sizes of the splits,
    `resplit` says of a split that is not the published one what it is. `disk_bytes` is what download, unpacked files
    and records take together (TFDS knows it only where it reaches its server), `urls` the archives TFDS downloads,
    `archives` those the user fetches."""

    info: ClassVar[Info]
    builder: ClassVar[str]
    stored: ClassVar[dict[str, str]]
    encoded: ClassVar[tuple[str, ...]]
    id_feature: ClassVar[str] = "file_name"
    counts: ClassVar[dict[str, int]]
    resplit: ClassVar[dict[str, str]] = {}
    disk_bytes: ClassVar[int]
    urls: ClassVar[tuple[str, ...]] = ()
    archives: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self._root = paths.data_dir() / "tensorflow_datasets"
        self._opened: Any = None
        self._records: dict[str, Records] = {}

    def __getstate__(self) -> dict[str, Any]:
        # open readers stay behind when the loader goes to a worker process
        return self.__dict__ | {"_opened": None, "_records": {}}

    def prepare(self) -> None:
        """Download and convert unless done; a finished archive is never fetched twice.

        Raises NoDataError when the data cannot be had (network, disk, archives to fetch by hand) and
        ReproError when TensorFlow is missing."""
        builder = self._builder()
        if builder.is_prepared():
            return
        manual = self._root / "downloads" / "manual"
        missing = [name for name in self.archives if not (manual / name).exists()]
        if missing:
            raise NoDataError(f"{' and '.join(missing)} not found in {manual}", self.info.manual)
        stated = int(builder.info.download_size or 0) + int(builder.info.dataset_size or 0)
        check_room(self.builder, self._root, max(stated, self.disk_bytes))
        self._check_network(builder)
        # ArrayRecord gives random access; TFDS has it on Linux only
        file_format = "array_record" if importlib.util.find_spec("array_record") else "tfrecord"
        try:
            builder.download_and_prepare(download_dir=self._root / "downloads", file_format=file_format)
        # whatever stops TFDS (network, checksum, disk, its own packages) means the same here: no data
        except Exception as error:
            raise self._no_data("cannot be fetched", error) from None

    def fingerprint(self, split: str) -> str:
        """16 hex digits over builder, version, split, class names, and the numbers of examples and bytes."""
        info = self._builder().info
        stored = info.splits.get(self.stored[known_split(self.info, split)])
        facts = [self.builder, str(info.version), split, self.size(split), getattr(stored, "num_bytes", None)]
        facts += [self.info.checksum, *self._class_names()]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split is a published one, with the published version and number of examples."""
        version = str(self._builder().version)
        if version != self.info.version:
            return False, f"version {version} instead of {self.info.version}"
        if self.size(split) != self.counts[split]:
            return False, f"{self.size(split)} of {self.counts[split]} images"
        return split not in self.resplit, self.resplit.get(split, "")

    def size(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._open(split))

    @abc.abstractmethod
    def sample(self, split: str, index: int) -> Sample:
        """The image of a record with what the record says of it.

        Raises ReproError naming builder, split and index when the record is damaged or makes no sense."""

    def _class_names(self) -> Sequence[str]:
        """The names that, in their order, tell what the numbers of a label or a label map mean."""
        return self.info.semantic_classes or self.info.classes

    def _part(self, split: str, records: Records) -> Records:
        """The records of our split among those of the stored split behind it: all of them."""
        return records

    def _builder(self) -> Any:
        if self._opened is None:
            tfds = _import_tfds()
            try:
                self._opened = tfds.builder(self.builder, data_dir=self._root)
            except Exception as error:
                raise self._no_data("cannot be opened", error) from None
        return self._opened

    def _open(self, split: str) -> Records:
        if known_split(self.info, split) not in self._records:
            builder, tfds = self._builder(), _import_tfds()
            stored, encoded = self.stored[split], {name: tfds.decode.SkipDecoding() for name in self.encoded}
            try:
                if builder.info.file_format == tfds.core.FileFormat.TFRECORD and builder.is_prepared():
                    records = _Forward(tfds, builder, stored, encoded)
                else:
                    records = builder.as_data_source(stored, decoders=encoded)
            except Exception as error:
                if not builder.is_prepared():
                    cure = f"`repro data {self.info.name}` fetches it"
                    raise NoDataError(f"{self.builder} is not in {self._root}", cure) from None
                problem = f"{self.builder} {split} cannot be opened ({_one_line(error)})"
                raise ReproError(problem, self._cure()) from None
            self._records[split] = self._part(split, records)
        return self._records[split]

    def _record(self, split: str, index: int) -> dict[str, Any]:
        records = self._open(split)
        if not 0 <= index < len(records):
            raise IndexError(f"{self.builder} {split} has {len(records)} images, not one at {index}")
        try:
            return records[index]
        # readers of records fail with the exceptions of three libraries
        except Exception as error:
            raise self._nonsense(split, index, f"cannot be read ({_one_line(error)})") from None

    def _read(self, split: str, index: int, other: str, kind: type, what: str) -> tuple[str, np.ndarray, Any]:
        """Name, image uint8 [H,W,3] and the feature `other` of a record, which is `what`, of this type."""
        record = self._record(split, index)
        image, value = record[self.encoded[0]], record[other]
        # a truncated ArrayRecord file yields records of None
        if not isinstance(image, bytes) or value is None or not isinstance(value, kind):
            kinds = f"{type(image).__name__} and {type(value).__name__}"
            raise self._nonsense(split, index, f"holds {kinds} instead of an encoded image and {what}")
        name = np.asarray(record.get(self.id_feature, f"{split}-{index:07d}")).item()
        name = name.decode() if isinstance(name, bytes) else str(name)
        pixels = decode_image(image, f"{self.builder} {split} {index}", upright=False)
        return name.removesuffix(".jpg"), pixels, value

    def _nonsense(self, split: str, index: int, what: str) -> ReproError:
        return ReproError(f"{self.builder} {split} {index} {what}", self._cure())

    def _cure(self) -> str:
        return f"delete {self._builder().data_dir} and fetch it again"

    def _check_network(self, builder: Any) -> None:
        for url in self.urls:
            if self._is_fetched(builder.url_infos.get(url)):
                continue
            # TFDS itself would try for minutes before it gives up
            try:
                urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20).close()
            except (OSError, http.client.HTTPException) as error:
                raise self._no_data(f"cannot be fetched from {url}", error) from None

    def _is_fetched(self, archive: Any) -> bool:
        if archive is None:
            return False
        downloads = self._root / "downloads"
        # TFDS cuts long names, but always ends them with the checksum; a download under way is named otherwise
        checksum = base64.urlsafe_b64encode(bytes.fromhex(archive.checksum)).decode().rstrip("=")
        kept = [path for path in downloads.rglob(f"*{checksum}.*") if path.is_file() and path.suffix != ".INFO"]
        return bool(kept) or (downloads / "manual" / archive.filename).exists()

    def _no_data(self, what: str, error: Exception) -> NoDataError:
        if isinstance(error, ModuleNotFoundError):
            cure = f"pip install {error.name}"
        else:
            cure = f"check the network and {self._root}, then `repro data {self.info.name}` again"
        return NoDataError(f"{self.builder} {what} ({_one_line(error)})", cure)


class _Forward:
    """A TFRecord split by index: one pipeline that runs forward and is reopened on a jump."""

    def __init__(self, tfds: Any, builder: Any, split: str, decoders: dict[str, Any]) -> None:
        self._builder, self._split, self._decoders = builder, split, decoders
        # one file after the other: interleaved files would make the order depend on where a slice begins
        self._read_config = tfds.ReadConfig(interleave_cycle_length=1, shuffle_seed=None, try_autocache=False)
        self._length = builder.info.splits[split].num_examples
        self._next = 0
        self._records: Iterator[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        if self._records is None or index != self._next:
            options = {"decoders": self._decoders, "read_config": self._read_config, "shuffle_files": False}
            data = self._builder.as_dataset(split=f"{self._split}[{index}:]", **options)
            self._records = data.as_numpy_iterator()
        self._next = index + 1
        return next(self._records)


class Parts:
    """Records of sequences, one sequence after the other, of each those at the positions of a range."""

    def __init__(self, *parts: tuple[Records, range]) -> None:
        self._places = [(records, position) for records, positions in parts for position in positions]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        records, position = self._places[index]
        return records[position]


def _import_tfds() -> Any:
    try:
        import tensorflow  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        problem = f"TensorFlow Datasets cannot be used ({_one_line(error)})"
        raise ReproError(problem, "pip install tensorflow tensorflow-datasets") from None
    # too late when TensorFlow runs already; then it holds the GPU whatever we say
    with contextlib.suppress(RuntimeError):
        backend.keep_tensorflow_off_the_gpu()
    return tfds


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


class TfdsClassification(TfdsDataset):
    """A labelled-image builder of TFDS."""

    stored: ClassVar[dict[str, str]] = {"train": "train", "val": "validation"}
    encoded = ("image",)

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3] and label 0..K-1. On TFRecord files, reading in order is fast, jumps are slow.

        Raises ReproError naming builder, split and index when the record is damaged or makes no sense."""
        name, pixels, label = self._read(split, index, "label", object, "a label")
        classes = self._builder().info.features["label"].num_classes
        if not 0 <= label < classes:
            raise self._nonsense(split, index, f"has label {label}, not one of 0..{classes - 1}")
        return Sample(name, pixels, label=int(label))

    def _class_names(self) -> Sequence[str]:
        return self._builder().info.features["label"].names


class Imagenette(TfdsClassification):
    """Ten easy classes of ImageNet, shorter side 320 pixels, with the 70/30 split of version 2."""

    builder = "imagenette/320px-v2"
    counts: ClassVar[dict[str, int]] = {"train": 9469, "val": 3925}
    disk_bytes = 1_100_000_000
    urls = ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",)
    info = Info(
        name="imagenette", title="Imagenette v2, 320 px",
        source="https://github.com/fastai/imagenette through TensorFlow Datasets", version="1.0.0",
        licence="Apache-2.0; the images under ImageNet's terms", size="9469 + 3925 images, 0.34 GB to download",
        splits=tuple(TfdsClassification.stored), tasks=("classification",),
        classes=(
            "tench", "English springer", "cassette player", "chain saw", "church",
            "French horn", "garbage truck", "gas pump", "golf ball", "parachute",
        ),
        checksum="569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
    )  # fmt: skip


class ImageNet2012(TfdsClassification):
    """ImageNet ILSVRC 2012; `val` is the official validation set, whose labels are public."""

    builder = "imagenet2012"
    counts: ClassVar[dict[str, int]] = {"train": 1281167, "val": 50000}
    disk_bytes = 168_000_000_000
    archives = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
    info = Info(
        name="imagenet2012", title="ImageNet ILSVRC 2012",
        source="https://image-net.org/download-images through TensorFlow Datasets", version="5.1.0",
        licence="ImageNet terms of access: non-commercial research and education",
        size="1281167 + 50000 images, 156 GiB", splits=tuple(TfdsClassification.stored), tasks=("classification",),
        # TFDS knows the synset ids only once the archives are unpacked
        classes=tuple(f"class {index}" for index in range(1000)),
        manual="register at image-net.org/download-images and put ILSVRC2012_img_train.tar and "
        "ILSVRC2012_img_val.tar into tensorflow_datasets/downloads/manual of the data folder",
    )  # fmt: skip
