"""RoI max pooling and RoIAlign beside other libraries', forward and with the gradient."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from repro.experiments.operations import BY_HAND, TIMED, Answer, Comparison, Operations, our_nms
from repro.records.run import Progress

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_SIZE = (7, 7)
_TABLE = (
    "a crop reads four cells a sample, and its gradient goes straight back to them; ours goes through a table of "
    "running maxima, 23 times a map of 38x63 however few the RoIs, and back (half the time of 128 RoIs on two cores)"
)
_CROPS = (
    "tf.image.crop_and_resize with max pooling is another operation, timed because early TensorFlow detectors use it "
    "in RoI pooling's place: there is no agreement to tell."
)


class RoISpeed(Operations, tag="roi_speed", frozen=True):
    """Time RoI max pooling and RoIAlign."""

    SUBJECT: ClassVar[str] = "roi"
    TITLE: ClassVar[str] = "RoI pooling and RoIAlign"
    # Faster R-CNN's: image, channels of VGG-16's map, RoIs that training chooses from, and those it learns from
    SIZES: ClassVar[dict[str, Any]] = dict(image=(600, 1000), objects=8, channels=512, rois=2000, trained=128)
    WHY: ClassVar[dict[tuple[str, str], str]] = {("roi", "torchvision"): BY_HAND, ("roi", "crop_and_resize"): _TABLE}
    OTHER: ClassVar[dict[str, str]] = {"crop_and_resize": _CROPS}

    def compare(self, found: Comparison, sizes: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """To 7x7, forward at every RoI, and with the gradient at a training step's."""
        from repro.ops.roi import roi_align, roi_max_pool
        from repro.peers.nms import STRIDE, region_proposals, some_objects
        from repro.peers.roi import ALIGN_PEERS, POOL_PEERS, built

        rng, image = np.random.default_rng(0), tuple(sizes["image"])
        grid = tuple(-(-side // STRIDE) for side in image)
        boxes, scores = region_proposals(some_objects(sizes["objects"], image, rng), image, rng)
        regions = boxes[our_nms(boxes, scores, 0.7, sizes["rois"])[1]]
        regions = np.resize(regions, (1, sizes["rois"], 4))  # from the start again where NMS leaves fewer
        features = rng.normal(size=(1, *grid, sizes["channels"])).astype("float32")
        upstream = rng.normal(size=(1, sizes["trained"], *_SIZE, sizes["channels"])).astype("float32")
        ours: dict[str, tuple[Callable[..., Any], Mapping[str, Callable[..., Answer]], str]] = {
            "roi_max_pool": (roi_max_pool, POOL_PEERS, "RoI max pooling"),
            "roi_align": (roi_align, ALIGN_PEERS, "RoIAlign, 2 x 2 samples a bin"),
        }
        for number, (name, (operation, peers, title)) in enumerate(ours.items()):
            pooling = functools.partial(operation, size=_SIZE, spatial_scale=1 / STRIDE)
            for step, (case, gradient) in enumerate(((name, None), (f"{name}_train", upstream))):
                rois = regions if gradient is None else regions[:, : sizes["trained"]]
                shown = f"{title}, {rois.shape[1]} RoIs" + ("" if gradient is None else ", with gradient")
                mine = built(pooling, features, rois, gradient)
                inputs = features, rois, _SIZE, 1 / STRIDE, gradient
                found.compare(case, shown, mine, peers, inputs, relative_differences)
                progress(0.5 * number + 0.25 * (step + 1), shown)
        return {
            "input_size": image,
            "protocol": {
                **TIMED,
                "regions": f"what NMS at 0.7 leaves of proposals around {sizes['objects']} objects, on a map of "
                f"{grid[0]}x{grid[1]}x{sizes['channels']}, to 7x7",
                "timed region": "map and RoIs on the device to pooled features (and the gradient by the map); ours "
                "and the second formulation one XLA program each, peers as their users call them",
                "agreement": "largest difference relative to the largest value",
            },
        }


def relative_differences(ours: Answer, theirs: Answer) -> dict[str, float]:
    """The largest difference of the values, and of the gradient where there is one, relative to the largest value."""
    pairs = {"values": (ours[0], theirs[0]), "gradient": (ours[1], theirs[1])}
    both = {name: pair for name, pair in pairs.items() if pair[0] is not None}
    return {name: float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for name, (a, b) in both.items()}
