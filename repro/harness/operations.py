"""Non-maximum suppression, RoI pooling and selective search beside other libraries', on the same inputs, in one run."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops

from repro import backend
from repro.data.base import Sample, open_dataset
from repro.errors import ReproError, unknown_name
from repro.harness.config import Operations
from repro.harness.record import Timing, Xla
from repro.harness.run import Job, Run, dataset_of
from repro.harness.timing import PROTOCOL, measure, summary
from repro.metrics.detection import proposal_recall
from repro.ops.nms import class_nms, nms
from repro.ops.roi import roi_align, roi_max_pool
from repro.peers import nms as nms_peers
from repro.peers import roi as roi_peers
from repro.peers import selective_search as search_peers
from repro.proposals.selective_search import selective_search

Progress = Callable[[float, str], None]
STRIDE = nms_peers.STRIDE
# Faster R-CNN's test.prototxt and config.py: boxes before and after the NMS of training and of testing; Fast R-CNN's
# test_net: RoIs, classes, detections; YOLO v2: grid, classes, detections
SIZES: dict[str, dict[str, Any]] = {
    "nms": {"image": (600, 1000), "objects": 8, "rpn_train": (12000, 2000), "rpn_test": (6000, 300),
            "detector": (300, 20, 100), "yolo": (13, 20, 100)},
    "roi": {"image": (600, 1000), "objects": 8, "channels": 512, "rois": 2000, "trained": 128},
    "selective_search": {"width": 500, "boxes": 2000, "min_side": 20},
}  # fmt: skip
_TIMED = {name: PROTOCOL[name] for name in ("timing", "warm-up", "spread", "peak memory")}
# peers that are timed though they compute something else
OTHER_OPERATIONS = ("crop_and_resize",)
_ONE_BY_ONE = (
    "it looks at one box after another, each against those kept so far, and stops when there are enough; ours computes "
    "the overlaps of whole tiles of boxes in fixed shapes, so that it can stand inside a detector's program"
)
_BELOW_FIRST = (
    "it drops what is below the score first and then looks at one box after another; ours, in fixed shapes, sorts all "
    "scores of every class (half its time on two cores) and computes whole tiles of overlaps, however few are left"
)
_BY_HAND = (
    "its kernel is written by hand for this one operation; ours is compiled from general ones that run on every "
    "backend, in fixed shapes"
)
_TABLE = (
    "a crop reads four cells a sample, and its gradient goes straight back to them; ours goes through a table of "
    "running maxima, 23 times a map of 38x63 however few the RoIs, and back (half the time of 128 RoIs on two cores)"
)
_SEGMENTED = (
    "about three quarters of ours is scikit-image's initial segmentation, twice as slow as OpenCV's own; the grouping "
    "in Python is an eighth"
)
_FIRST = ("tf_image", "tf_image_loop", "keras_cv")
# why a peer may be faster, by the first word of the case and the peer; said only where it is
WHY = {
    ("rpn", "tf_image"): _ONE_BY_ONE,
    **{(kind, peer): _BELOW_FIRST for kind in ("detector", "yolo") for peer in _FIRST},
    **{(kind, "torchvision"): _BY_HAND for kind in ("rpn", "detector", "yolo", "roi")},
    ("roi", "crop_and_resize"): _TABLE,
    ("selective", "opencv"): _SEGMENTED,
}  # fmt: skip


@dataclass
class Found:
    """What a run gathers; keys are `<case>.<who>`, and `cases` says in words what a case is."""

    cases: dict[str, str] = field(default_factory=dict)
    timings: dict[str, Timing] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, dict[str, float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def add(self, case: str, title: str, timings: dict[str, Timing]) -> None:
        """Take in the timings of a case, "ours" and the peers', and compare them."""
        self.cases[case] = title
        for who, timing in timings.items():
            self.timings[f"{case}.{who}"] = timing
            if who != "ours":
                self.ratio[f"{case}.{who}"] = ratio = timings["ours"].median / timing.median
                reason = WHY.get((case.partition("_")[0], who))
                if ratio > 1 and reason:
                    self.why[f"{case}.{who}"] = reason

    def metrics(self) -> dict[str, Any]:
        """As they stand in the result."""
        names = ("cases", "ratio", "agreement", "absent", "why")
        return {name: getattr(self, name) for name in names}


def operations(job: Job, progress: Progress) -> None:
    """Time one part of the operations beside its peers. Writes one result.

    Raises ReproError for sizes of another part, and for selective search without data."""
    config: Operations = job.config
    run, found = Run(job, 0), Found()
    tf32 = backend.set_precision(config.precision)
    backend.compile_cache(False)
    backend.set_seed(0)
    sizes = sizes_of(config)
    fields = _PARTS[config.part](found, sizes, config, progress)
    run.finish(
        model=config.part,
        metrics=found.metrics() | fields.pop("metrics", {}),
        timings=found.timings,
        tf32=tf32,
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
        **fields,
    )


def sizes_of(config: Operations) -> dict[str, Any]:
    """The sizes of a part, those of the papers where none is given."""
    known = SIZES[config.part]
    for name in config.sizes:
        if name not in known:
            raise unknown_name(f"size of {config.part}", name, known)
    return known | config.sizes


def compare(
    case: str, title: str, found: Found, config: Operations, ours: tuple[Any, ...], peers: dict[str, Callable[[], Any]],
    agree: Callable[[tuple[Any, ...], tuple[Any, ...]], dict[str, float]],
) -> None:  # fmt: skip
    """Build the peers of a case, (call, *answer) like `ours`, compare their answers and time all of them."""
    calls = {"ours": ours[0]}
    for peer, build in peers.items():
        try:
            calls[peer], *answer = build()
        except ImportError as error:
            found.absent[f"{case}.{peer}"] = str(error)
            continue
        found.agreement[f"{case}.{peer}"] = {} if peer in OTHER_OPERATIONS else agree(ours[1:], tuple(answer))
    found.add(case, title, measure(calls, config.warmup, config.repetitions, config.seconds)[1])


# --- non-maximum suppression


def after_nms(boxes: np.ndarray, scores: np.ndarray, keep: int) -> np.ndarray:
    """The RPN's NMS: `keep` boxes, fewer where it leaves fewer."""
    indices, kept = roi_peers.compiled(lambda b, s: nms(b, s, 0.7, keep))(boxes, scores)
    return boxes[ops.convert_to_numpy(indices)[ops.convert_to_numpy(kept)]]


def time_nms(found: Found, sizes: dict[str, Any], config: Operations, progress: Progress) -> dict[str, Any]:
    """RPN's proposals in training and testing, a detector's last step, and YOLO's."""
    rng, image = np.random.default_rng(0), tuple(sizes["image"])
    objects = nms_peers.some_objects(sizes["objects"], image, rng)
    boxes, scores = nms_peers.region_proposals(objects, image, rng)
    for number, (case, title) in enumerate((("rpn_train", "RPN, training"), ("rpn_test", "RPN, test"))):
        before, keep = sizes[case]
        one = boxes[:before], scores[:before]
        peers = {name: functools.partial(peer, *one, 0.7, keep) for name, peer in nms_peers.LIST_PEERS.items()}
        text = f"{title}: {len(one[0])} boxes, at most {keep}, IoU 0.7"
        compare(case, text, found, config, _our_list(*one, 0.7, keep), peers, _same_boxes)
        progress(0.25 * (number + 1), title)
    regions, classes, keep = sizes["detector"]
    outputs = nms_peers.detector_outputs(after_nms(boxes, scores, regions), objects, image, classes, rng)
    _classes_case("detector", "Detector's last step", outputs, (0.3, 0.05, keep), found, config)
    progress(0.75, "detector")
    cells, classes, keep = sizes["yolo"]
    outputs = nms_peers.yolo_outputs(cells, classes, sizes["objects"], rng)
    _classes_case("yolo", "YOLO", outputs, (0.45, 0.005, keep), found, config)
    progress(1.0, "YOLO")
    return {
        "scale": "smoke" if config.sizes else "paper",
        "input_size": image,
        "xla": Xla(requested=True, used=True),
        "protocol": {
            **_TIMED,
            "boxes": f"decoded from anchors around {sizes['objects']} objects, with errors and with scores that "
            "follow the overlap; no two scores equal",
            "timed region": "boxes and scores on the device to what is kept; ours one XLA program, peers as their "
            "users call them",
            "agreement": "share of the kept boxes that both keep",
        },
    }


def _our_list(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, keep: int) -> nms_peers.Built:
    arrays = backend.to_device(boxes), backend.to_device(scores)
    program = roi_peers.compiled(lambda b, s: nms(b, s, iou_threshold, keep))
    indices, kept = (ops.convert_to_numpy(array) for array in program(*arrays))
    return lambda: program(*arrays), indices[kept]


def _classes_case(
    case: str, title: str, outputs: tuple[np.ndarray, np.ndarray], options: tuple[float, float, int], found: Found,
    config: Operations,
) -> None:  # fmt: skip
    boxes, scores = outputs
    iou_threshold, score_threshold, keep = options
    arrays = backend.to_device(boxes[None]), backend.to_device(scores[None])
    program = roi_peers.compiled(lambda b, s: class_nms(b, s, iou_threshold, score_threshold, keep))
    answer = {name: ops.convert_to_numpy(value)[0] for name, value in program(*arrays).items()}
    count = int(answer["count"])
    kept = nms_peers.identify(scores, answer["scores"][:count], answer["classes"][:count])
    peers = {name: functools.partial(peer, boxes, scores, *options) for name, peer in nms_peers.CLASS_PEERS.items()}
    above = int((scores > score_threshold).sum())
    text = f"{title}: {len(scores)} boxes x {scores.shape[1]} classes, {above} scores above {score_threshold}, "
    text += f"IoU {iou_threshold}, at most {keep}"
    compare(case, text, found, config, (lambda: program(*arrays), kept), peers, _same_boxes)


def _same_boxes(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> dict[str, float]:
    a, b = set(ours[0].tolist()), set(theirs[0].tolist())
    return {"kept": len(a & b) / max(len(a | b), 1) if a or b else 1.0}


# --- regions of interest


def time_roi(found: Found, sizes: dict[str, Any], config: Operations, progress: Progress) -> dict[str, Any]:
    """RoI max pooling and RoIAlign to 7x7, forward at every RoI, and with the gradient at a training step's."""
    rng, image, size = np.random.default_rng(0), tuple(sizes["image"]), (7, 7)
    grid = tuple(-(-side // STRIDE) for side in image)
    regions = after_nms(
        *nms_peers.region_proposals(nms_peers.some_objects(sizes["objects"], image, rng), image, rng), sizes["rois"]
    )
    regions = np.resize(regions, (1, sizes["rois"], 4))  # from the start again where NMS leaves fewer
    features = rng.normal(size=(1, *grid, sizes["channels"])).astype("float32")
    upstream = rng.normal(size=(1, sizes["trained"], *size, sizes["channels"])).astype("float32")
    ours = {
        "roi_max_pool": (roi_max_pool, roi_peers.POOL_PEERS, "RoI max pooling"),
        "roi_align": (roi_align, roi_peers.ALIGN_PEERS, "RoIAlign, 2 x 2 samples a bin"),
    }
    for number, (name, (operation, peers, title)) in enumerate(ours.items()):
        pooling = functools.partial(operation, size=size, spatial_scale=1 / STRIDE)
        for step, (case, gradient) in enumerate(((name, None), (f"{name}_train", upstream))):
            rois = regions if gradient is None else regions[:, : sizes["trained"]]
            shown = f"{title}, {rois.shape[1]} RoIs" + ("" if gradient is None else ", with gradient")
            built = {
                who: functools.partial(peer, features, rois, size, 1 / STRIDE, gradient) for who, peer in peers.items()
            }
            mine = roi_peers.built(pooling, features, rois, gradient)
            compare(case, shown, found, config, mine, built, _relative_differences)
            progress(0.5 * number + 0.25 * (step + 1), shown)
    return {
        "scale": "smoke" if config.sizes else "paper",
        "input_size": image,
        "xla": Xla(requested=True, used=True),
        "protocol": {
            **_TIMED,
            "regions": f"what NMS at 0.7 leaves of proposals around {sizes['objects']} objects, on a map of "
            f"{grid[0]}x{grid[1]}x{sizes['channels']}, to 7x7",
            "timed region": "map and RoIs on the device to pooled features (and the gradient by the map); ours and "
            "the second formulation one XLA program each, peers as their users call them",
            "agreement": "largest difference relative to the largest value",
        },
    }


def _relative_differences(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> dict[str, float]:
    pairs = {"values": (ours[0], theirs[0]), "gradient": (ours[1], theirs[1])}
    return {
        name: float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for name, (a, b) in pairs.items() if a is not None
    }  # fmt: skip


# --- selective search


def time_selective_search(
    found: Found, sizes: dict[str, Any], config: Operations, progress: Progress
) -> dict[str, Any]:  # fmt: skip
    """Ours, in fast mode, and OpenCV's, image by image on one thread each, and what they recall."""
    if config.data is None:
        raise ReproError("selective search has no images to look at", "give the configuration `data`")
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    split, rules = config.data.test, {"width": sizes["width"], "min_side": sizes["min_side"]}
    number = min(config.images, dataset.size(split))
    searches: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ours": lambda image: selective_search(image, "fast", sizes["boxes"], **rules),
        "opencv": lambda image: search_peers.opencv(image, sizes["boxes"], **rules),
    }
    try:
        search_peers.check()
    except ImportError as error:
        found.absent["selective_search.opencv"] = str(error)
        del searches["opencv"]
    boxes: dict[str, list[np.ndarray]] = {who: [] for who in searches}
    seconds: dict[str, list[float]] = {who: [] for who in searches}
    truths = []
    with search_peers.one_thread():
        for search in searches.values():
            search(dataset.sample(split, 0).image)
        for index in range(number):
            sample = dataset.sample(split, index)
            truths.append(_truth(sample))
            for who, search in searches.items():
                started = time.perf_counter()
                boxes[who].append(search(sample.image))
                seconds[who].append(time.perf_counter() - started)
            progress((index + 1) / number, "selective search")
    timings = {who: summary(values, "s") for who, values in seconds.items()}
    found.add("selective_search", f"Selective search, fast, {number} images", timings)
    return {
        "scale": _search_scale(config, number, dataset.size(split)),
        "dataset": dataset_of(dataset, split),
        "xla": Xla(requested=False, used=False),
        "metrics": dict(_recalls(boxes, truths, sizes["boxes"])),
        "protocol": {
            "timed region": f"an image in memory to its boxes, resized to {sizes['width']} pixels of width; at most "
            f"{sizes['boxes']} boxes, none with a side under {sizes['min_side']} pixels; one thread each, image by "
            "image in turn, after one without a clock",
            "spread": "median, 5th and 95th percentile over the images",
            "recall": "share of the objects, difficult ones left out, that a proposal covers at the IoU",
        },
    }


def _search_scale(config: Operations, number: int, available: int) -> str:
    if config.sizes:
        return "smoke"
    return "paper" if number == available else "reduced"


def _truth(sample: Sample) -> dict[str, np.ndarray]:
    none = np.zeros(len(sample.classes), bool)
    flags = {"difficult": sample.difficult, "crowd": sample.crowd}
    flags = {name: none if value is None else value for name, value in flags.items()}
    return {"boxes": sample.boxes, "classes": sample.classes, **flags}


def _recalls(
    boxes: dict[str, list[np.ndarray]], truths: list[dict[str, np.ndarray]], most: int
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """`recall` at the IoUs, mean `boxes` an image, and the `objects`."""
    covered = {who: proposal_recall(found, truths, (most,)) for who, found in boxes.items()}
    yield "recall", {who: {t: r[0] for t, r in one["recall"].items()} for who, one in covered.items()}
    yield "boxes", {who: float(np.mean([len(one) for one in found])) for who, found in boxes.items()}
    yield "objects", covered["ours"]["objects"]


_PARTS = {"nms": time_nms, "roi": time_roi, "selective_search": time_selective_search}
