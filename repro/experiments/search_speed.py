"""Selective search beside OpenCV's: times, and what both recall."""

import statistics
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from repro.data.catalog import open_dataset
from repro.engine.timing import summary
from repro.experiments.operations import Comparison, Operations
from repro.records.result import Xla
from repro.records.run import Progress, dataset_of
from repro.records.settings import Data
from repro.report.cards import recorded
from repro.report.pooling import Pool
from repro.report.render import Column, Row, columns, fixed

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_SEGMENTED = (
    "about three quarters of ours is scikit-image's initial segmentation, twice as slow as OpenCV's own; the grouping "
    "in Python is an eighth"
)


class SearchSpeed(Operations, tag="search_speed", kw_only=True, frozen=True):
    """Time selective search in fast mode on the first `images` of the test split."""

    SUBJECT: ClassVar[str] = "selective_search"
    MODULES: ClassVar[tuple[str, ...]] = ("proposals.selective_search", "metrics.detection")
    TITLE: ClassVar[str] = "Selective search"
    SIZES: ClassVar[dict[str, Any]] = {"width": 500, "boxes": 2000, "min_side": 20}
    WHY: ClassVar[dict[tuple[str, str], str]] = {("selective", "opencv"): _SEGMENTED}
    UNIT: ClassVar[str] = "s"
    LAST: ClassVar[tuple[Column, ...]] = (
        *columns("ours_0.5:our recall % at 0.5", "peer_0.5:peer's at 0.5", "ours_0.7:our recall % at 0.7"),
        *columns("peer_0.7:peer's at 0.7", "ours_boxes:our boxes", "peer_boxes:peer's boxes"),
    )

    data: Data
    images: int = 40

    def compare(self, found: Comparison, sizes: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Image by image on one thread each; ours goes on alone where OpenCV has no selective search."""
        from repro.peers import selective_search as peers
        from repro.proposals.selective_search import selective_search

        dataset = open_dataset(self.data.name, **self.data.options)
        dataset.prepare()
        split, rules = self.data.test, {"width": sizes["width"], "min_side": sizes["min_side"]}
        number = min(self.images, dataset.size(split))
        searches: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "ours": lambda image: selective_search(image, "fast", sizes["boxes"], **rules),
            "opencv": lambda image: peers.opencv(image, sizes["boxes"], **rules),
        }
        try:
            peers.check()
        except ImportError as error:
            found.absent["selective_search.opencv"] = str(error)
            del searches["opencv"]
        boxes: dict[str, list[np.ndarray]] = {who: [] for who in searches}
        seconds: dict[str, list[float]] = {who: [] for who in searches}
        truths = []
        with peers.one_thread():
            for search in searches.values():
                search(dataset.sample(split, 0).image)
            for index in range(number):
                sample = dataset.sample(split, index)
                truths.append(sample.truth())
                for who, search in searches.items():
                    started = time.perf_counter()
                    boxes[who].append(search(sample.image))
                    seconds[who].append(time.perf_counter() - started)
                progress((index + 1) / number, "selective search")
        timings = {who: summary(values, "s") for who, values in seconds.items()}
        found.add("selective_search", f"Selective search, fast, {number} images", timings)
        return {
            "scale": "smoke" if self.sizes else "paper" if number == dataset.size(split) else "reduced",
            "dataset": dataset_of(dataset, split),
            "xla": Xla(requested=False, used=False),
            "metrics": _recalls(boxes, truths, sizes["boxes"]),
            "protocol": {
                "timed region": f"an image in memory to its boxes, resized to {sizes['width']} pixels of width; at "
                f"most {sizes['boxes']} boxes, none with a side under {sizes['min_side']} pixels; one thread each, "
                "image by image in turn, after one without a clock",
                "spread": "median, 5th and 95th percentile over the images",
                "recall": "share of the objects, difficult ones left out, that a proposal covers at the IoU",
            },
        }

    @classmethod
    def row(cls, entry: Pool, case: str, peer: str) -> Row:
        """With recalls and boxes of both in place of the agreement."""
        row = super().row(entry, case, peer)
        for who, name in (("ours", "ours"), ("peer", peer)):
            recalls = recorded(entry, "recall", name)
            for threshold in ("0.5", "0.7"):
                shares = [run[threshold] for run in recalls if run.get(threshold) is not None]
                share = statistics.fmean(shares) if shares else None
                row.cells[f"{who}_{threshold}"] = fixed(share and 100 * share, ".1f")
                row.values[f"{who}_recall_{threshold}"] = share
            counts = recorded(entry, "boxes", name)
            row.put(f"{who}_boxes", statistics.fmean(counts) if counts else None, ".0f")
        return row


def _recalls(boxes: dict[str, list[np.ndarray]], truths: list[dict[str, np.ndarray]], most: int) -> dict[str, Any]:
    """`recall` at the IoUs, mean `boxes` an image, and the `objects`."""
    from repro.metrics.detection import proposal_recall

    covered = {who: proposal_recall(found, truths, (most,)) for who, found in boxes.items()}
    return {
        "recall": {who: {iou: shares[0] for iou, shares in one["recall"].items()} for who, one in covered.items()},
        "boxes": {who: float(np.mean([len(one) for one in found])) for who, found in boxes.items()},
        "objects": covered["ours"]["objects"],
    }
