"""Scoring someone else's predictions without a model: COCO's results file, or a folder of VOC's, against the objects
that a data set's loader gives.

COCO: a JSON list of {image_id, category_id, bbox [x, y, width, height], score} and, for masks, segmentation
{size [height, width], counts (compressed)}; cocodataset.org, "Results format". A detection with a mask alone, as there,
has the box around its mask, as in pycocotools. VOC: `comp4_det_test_<class>.txt` of
lines `image_id score xmin ymin xmax ymax`, where pixels count from 1 and a box includes both ends; development kit of
VOC 2012, Section 9.2. Image ids are compared as text. Needs neither Keras nor a backend.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from repro.data import coco
from repro.data.catalog import dataset_class, open_dataset
from repro.data.images import read_bytes
from repro.data.masks import run_lengths
from repro.errors import ReproError, unknown_name
from repro.experiments.kind import Kind, is_generated
from repro.metrics.coco import coco_protocol
from repro.metrics.detection import detection_protocol
from repro.metrics.instance import instance_protocol
from repro.records.run import Outcome, Progress, Run, dataset_of
from repro.records.settings import Data
from repro.tasks.objects import objects_of, scores_of

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_VOC_FILE = re.compile(r"comp\d+(?:-[\w-]+)?_det_[a-z0-9]+_(.+)\.txt")
_VOC_LINES = "give lines `image_id score xmin ymin xmax ymax`, as VOC's development kit reads them"
_COCO_FIELDS = (
    "give a list of {image_id, category_id, bbox [x, y, width, height], score}, for masks with or instead of bbox "
    "segmentation {size [height, width], counts (compressed)}"
)


class Detection(NamedTuple):
    """One detection of a file, and where it stands there; box (x1,y1,x2,y2), 0-based, half-open; mask compressed run
    lengths, or None."""

    place: str
    image_id: str
    kind: int
    score: float
    box: tuple[float, float, float, float]
    mask: dict[str, Any] | None


class _Runs(msgspec.Struct, gc=False):
    size: tuple[int, int]
    counts: str


class _Entry(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: _Runs | None = None


class Predictions(Kind, tag="predictions", frozen=True):
    """Score someone else's predictions on the test split. predictions: a COCO results file or a folder of VOC's. With
    no task, they stay out of the tables, which are of our models."""

    RESULT: ClassVar[str] = "eval"
    TABLE: ClassVar[str] = "predictions"  # that there is not: its scores are of nobody's network here
    MODULES: ClassVar[tuple[str, ...]] = ("metrics.coco", "metrics.detection", "metrics.instance")

    data: Data
    predictions: str
    predictions_sha256: str

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """Score the file. Masks are scored where the data set has them and every detection too.

        Raises ReproError naming file and entry for what makes no sense, and NoDataError without the data."""
        dataset, split = open_dataset(self.data.name, **self.data.options), self.data.test
        found = read_predictions(Path(self.predictions), dataset)
        dataset.prepare()
        objects = objects_of(dataset, split)
        predictions = by_image(found, objects.ids, objects.sizes, f"split {split} of {self.data.name}")
        unmasked = "the data set has none" if not all("masks" in truth for truth in objects.truths) else ""
        without = sum(each.mask is None for each in found)
        unmasked = unmasked or (f"{without} of {len(found)} detections have none" if without else "")
        metrics = scores_of(predictions, objects, dataset.info.classes, masks=not unmasked)
        for _ in runs:
            yield Outcome(
                scale="smoke" if is_generated(self.data) else "reduced",
                metrics=metrics,
                protocol={
                    **detection_protocol(),
                    **coco_protocol(),
                    **({"masks": f"not scored: {unmasked}"} if unmasked else instance_protocol()),
                    "detections": "as their file has them: no threshold, no suppression; a mask without a box has the "
                    "one around it",
                },
                dataset=dataset_of(dataset, split),
            )


def predictions_for(data: str, split: str, path: Path) -> Predictions:
    """The settings for scoring a COCO results file or a VOC folder on a split of a data set.

    Raises ReproError for a data set without objects, a split that it has not, and where there are no predictions."""
    info, path = dataset_class(data).info, path.expanduser().absolute()
    if not {"detection", "instance"} & set(info.tasks):
        raise ReproError(f"{data} has no objects to find", "see `repro list datasets`")
    if split not in info.splits:
        raise unknown_name(f"split of {data}", split, info.splits)
    digest = _digest_of(path, info.classes)
    return Predictions(data=Data(name=data, test=split), predictions=str(path), predictions_sha256=digest)


def _digest_of(path: Path, classes: Sequence[str]) -> str:
    """The SHA-256 of a results file; of a folder, that of the names and hashes of its files."""
    if not path.exists():
        cure = "give a COCO results file (.json) or a folder of comp4_det_test_<class>.txt"
        raise ReproError(f"there are no predictions at {path}", cure)
    if not path.is_dir():
        return hashlib.sha256(read_bytes(path)).hexdigest()
    files = _voc_files(path, classes).values()
    lines = (f"{each.name} {hashlib.sha256(read_bytes(each)).hexdigest()}\n" for each in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_predictions(path: Path, dataset: Any) -> list[Detection]:
    """The detections of a results file or folder; classes are those of the data set.

    Raises ReproError naming the file, and the entry or line, for what is no such file, for scores that are not numbers,
    boxes of negative size, unknown classes, and where there is no detection."""
    if path.is_dir():
        found = _read_voc(path, dataset.info.classes)
    else:
        found = _read_coco(path, categories_of(dataset), dataset.info.name)
    if not found:
        raise ReproError(f"{path} holds no detection", "give the predictions of a detector that found something")
    return found


def categories_of(dataset: Any) -> dict[int, int]:
    """The class of each category id: what the loader says, else COCO's ids for COCO's classes, else class + 1."""
    default = coco.CATEGORY_IDS if dataset.info.classes == coco.CLASSES else range(1, len(dataset.info.classes) + 1)
    return {int(category): kind for kind, category in enumerate(getattr(dataset, "category_ids", default))}


def _read_coco(path: Path, categories: dict[int, int], data: str) -> list[Detection]:
    try:
        # unlike msgspec it takes NaN, which Python writes, so that the entry can be named
        entries = msgspec.convert(json.loads(read_bytes(path)), list[_Entry])
    except msgspec.ValidationError as error:
        raise ReproError(f"{path} is no COCO results file ({error})", _COCO_FIELDS) from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise ReproError(f"{path} is not valid JSON ({error})", "write it again") from None
    found = []
    for index, entry in enumerate(entries):
        place = f"entry [{index}] of {path}"
        if entry.category_id not in categories:
            gaps = ", with gaps" if max(categories) - min(categories) >= len(categories) else ""
            cure = f"its category ids are {min(categories)} to {max(categories)}{gaps}"
            raise ReproError(f"{place} has category {entry.category_id}, which {data} has not", cure)
        runs = entry.segmentation
        mask: dict[str, Any] | None = {"size": list(runs.size), "counts": runs.counts} if runs else None
        if entry.bbox is None:
            if mask is None:
                raise ReproError(f"{place} has neither bbox nor segmentation", _COCO_FIELDS)
            run_lengths(mask, f"the mask of {place}")
        x, y, width, height = entry.bbox or map(float, coco_mask.toBbox(mask))
        kind, corners = categories[entry.category_id], (x, y, x + width, y + height)
        found.append(_checked(Detection(place, str(entry.image_id), kind, entry.score, corners, mask)))
    return found


def _read_voc(folder: Path, classes: Sequence[str]) -> list[Detection]:
    found = []
    for name, path in _voc_files(folder, classes).items():
        for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), 1):
            if not line.strip():
                continue
            place = f"line {number} of {path}"
            try:
                image_id, *numbers = line.split()
                score, xmin, ymin, xmax, ymax = map(float, numbers)
            except ValueError:
                raise ReproError(f"{place} is {line.strip()!r:.60}", _VOC_LINES) from None
            corners = (xmin - 1, ymin - 1, xmax, ymax)
            found.append(_checked(Detection(place, image_id, classes.index(name), score, corners, None)))
    return found


def _voc_files(folder: Path, classes: Sequence[str]) -> dict[str, Path]:
    """The file of each class, in the order of their names."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _VOC_FILE.fullmatch(path.name)
        if not match:
            continue
        if match[1] not in classes:
            raise unknown_name(f"class in the name of {path}", match[1], classes)
        if match[1] in files:
            raise ReproError(f"{files[match[1]]} and {path} are of one class", "keep one of them")
        files[match[1]] = path
    if not files:
        raise ReproError(f"{folder} has no file like comp4_det_test_{classes[0]}.txt", _VOC_LINES)
    missing = [name for name in classes if name not in files]
    if missing:
        others = f", nor for {len(missing) - 1} more" if len(missing) > 1 else ""
        cure = f"where nothing was found, an empty comp4_det_test_{missing[0]}.txt says so"
        raise ReproError(f"{folder} has no file for the class {missing[0]}{others}", cure)
    return files


def _checked(found: Detection) -> Detection:
    """The detection, if score and box are finite and the box is not turned inside out."""
    if not math.isfinite(found.score):
        raise ReproError(f"{found.place} has the score {found.score}", "give finite numbers, higher for surer")
    width, height = found.box[2] - found.box[0], found.box[3] - found.box[1]
    if not (math.isfinite(sum(found.box)) and width >= 0 and height >= 0):
        problem = f"{found.place} has a box of {width:g}x{height:g} pixels (width x height)"
        raise ReproError(problem, "give finite numbers, no side below 0")
    return found


def by_image(
    found: Sequence[Detection], ids: Sequence[str], sizes: Sequence[tuple[int, int]], where: str
) -> list[dict[str, Any]]:
    """The detections of each image as `repro.metrics` takes them, in the order of the file.

    Raises ReproError for one of an image that is not `where` they should be, and for a mask of another size than its
    image or of run lengths that make no sense."""
    numbers = {image_id: number for number, image_id in enumerate(ids)}
    images: list[list[Detection]] = [[] for _ in ids]
    for each in found:
        if each.image_id not in numbers:
            cure = f"an image there is {ids[0]!r}; check --data and --split"
            raise ReproError(f"{each.place} is of image {each.image_id!r:.60}, which {where} has not", cure)
        number = numbers[each.image_id]
        if each.mask is not None:
            size = tuple(each.mask["size"])
            if size != sizes[number]:
                stated, real = ("x".join(map(str, pair)) for pair in (size, sizes[number]))
                problem = f"{each.place} has a mask of {stated}, its image is {real} (height x width)"
                raise ReproError(problem, "give masks of the original image")
            run_lengths(each.mask, f"the mask of {each.place}")
        images[number].append(each)
    return [
        {
            "boxes": np.array([each.box for each in group], np.float64).reshape(-1, 4),
            "scores": np.array([each.score for each in group], np.float64),
            "classes": np.array([each.kind for each in group], np.int64),
            "masks": [each.mask for each in group],
        }
        for group in images
    ]
