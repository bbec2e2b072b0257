"""R-CNN, Fast R-CNN and Faster R-CNN stage by stage, on the same image, backbone and machine, in one run."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from repro import backend, registry
from repro.data.base import open_dataset
from repro.data.cache import fit_scale, resize_image
from repro.data.detection import rescale
from repro.harness.config import Lineage, Network
from repro.harness.detect import Detector, build
from repro.harness.rcnn import SVM_THRESHOLD, Decode, box_deltas, decode, features_of
from repro.harness.record import Timing, Xla
from repro.harness.run import Job, Run, dataset_of
from repro.harness.timing import PROTOCOL, measure, summary
from repro.models import rcnn, vgg
from repro.proposals.selective_search import selective_search
from repro.proposals.warp import warp

Progress = Callable[[float, str], None]


@dataclasses.dataclass
class Scene:
    """One image on its canvas: image uint8 [H,W,3], valid_size, and selective search's proposals [P,4] on it."""

    image: np.ndarray
    valid_size: tuple[int, int]
    proposals: np.ndarray


class Head(keras.Model):
    """What a detector does with pooled regions: the layers from RoI pooling on."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name="head")
        pooled = network.get_layer("roi_pool").output
        self.inner = keras.Model(pooled, {name: network.output[name] for name in ("scores", "deltas")})
        self.built = True  # JAX asks

    def call(self, pooled, training=False):
        return self.inner(pooled, training=training)


class Call(keras.Model):
    """A function of tensors as a model, so that it is compiled like one."""

    def __init__(self, function: Callable[[dict], Any]) -> None:
        super().__init__(name="call", autocast=False)
        self.function = function
        self.built = True  # JAX asks

    def call(self, inputs, training=False):
        return self.function(inputs)


def lineage(job: Job, progress: Progress) -> None:
    """Time the three generations on some images. Writes one result."""
    config: Lineage = job.config
    run = Run(job, 0)
    tf32 = backend.set_precision(config.precision)
    backend.compile_cache(False)
    backend.set_seed(0)
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    scenes, seconds, sizes = [], [], []
    for index in range(config.images):
        image = dataset.sample(config.data.test, index).image
        # selective search sees the image as it is, as R-CNN's does; its boxes are then mapped to the canvas
        started = time.perf_counter()
        found = selective_search(image, config.proposals, config.num_proposals, **config.search)
        seconds.append(time.perf_counter() - started)
        scenes.append(scene_of(image, found, config))
        sizes.append(len(found))
        progress(0.1 * (index + 1) / config.images, "selective search")
    timings = {"selective_search": summary(seconds, "ms")}
    steps = [("faster_rcnn", {}), ("fast_rcnn", {}), ("fast_rcnn", {"svd": config.svd})]
    for number, (name, options) in enumerate(steps):
        prefix = f"{name}_svd" if options else name
        timings |= {f"{prefix}.{key}": value for key, value in detector_stages(name, options, scenes, config).items()}
        progress(0.2 + 0.1 * number, f"{prefix} timed")
    timings |= {f"rcnn.{key}": value for key, value in rcnn_stages(scenes, config, progress).items()}
    run.finish(
        scale=scale_of(config),
        model="rcnn",
        width=config.width,
        depth=config.depth,
        input_size=config.canvas,
        metrics={"images": config.images, "proposals": sizes, "canvas": list(config.canvas)},
        protocol={
            **PROTOCOL,
            "weights": "random: more boxes reach the last non-maximum suppression than from a trained network",
            "timed region": "stages are compiled one by one; `total` is one program from the image on the device to "
            "the final boxes, without selective search; R-CNN's total is the sum of its stages",
            "selective search": f"{config.proposals} mode, one core, on the image at its own size",
        },
        dataset=dataset_of(dataset, config.data.test),
        timings=timings,
        tf32=tf32,
        xla=Xla(requested=True, used=True),
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
    )


def scale_of(config: Lineage) -> str:
    """Whole networks on the paper's canvas with its number of proposals are "paper", narrower ones "smoke"."""
    if config.width < 1 or config.depth < 1:
        return "smoke"
    return "paper" if config.canvas == (600, 1000) and config.num_proposals == 2000 else "reduced"


def scene_of(image: np.ndarray, proposals: np.ndarray, config: Lineage) -> Scene:
    """An image on the canvas, turned so that its longer side lies along the canvas'."""
    canvas = config.canvas
    if (image.shape[0] > image.shape[1]) != (canvas[0] > canvas[1]):
        image = np.ascontiguousarray(image.transpose(1, 0, 2))
        proposals = proposals[:, [1, 0, 3, 2]]
    valid = fit_scale(image.shape[:2], canvas)
    whole = np.full((*canvas, 3), 116, "uint8")
    whole[: valid[0], : valid[1]] = resize_image(image, valid)
    boxes = np.zeros((config.num_proposals, 4), "float32")
    boxes[: len(proposals)] = rescale(proposals, np.array(image.shape[:2]), np.array(valid))
    return Scene(whole, valid, boxes)


def detector_stages(
    name: str, options: dict[str, Any], scenes: list[Scene], config: Lineage
) -> dict[str, Timing]:  # fmt: skip
    """Backbone, RPN, RoI pooling, head, NMS and the whole of a detector, in ms."""
    settings = dict(options) if name == "faster_rcnn" else {"proposals": config.num_proposals, **options}
    network = build(
        Network(name=name, width=config.width, depth=config.depth, input_size=config.canvas, options=settings),
        config.num_classes, 3, "infer",
    )  # fmt: skip
    module = registry.module_of(name)
    detector = Detector(network, module.detect, {})
    pool = network.get_layer("roi_pool")
    stages: dict[str, Any] = {"backbone": keras.Model(network.input["image"], pool.input[0])}
    if name == "faster_rcnn":
        rpn = {key: network.output[key] for key in ("rpn_scores", "rpn_deltas")}
        stages["rpn"] = keras.Model(pool.input[0], rpn)
        propose = network.get_layer("propose")
        stages["propose"] = Call(lambda x: propose(x["rpn_scores"], x["rpn_deltas"], x["valid_size"]))
    stages["roi"] = Call(lambda x: pool(x["features"], x["rois"]))
    stages["head"] = Head(network)
    stages["nms"] = Call(lambda x: module.detect(x, x))
    collected: dict[str, list[Timing]] = {}
    for scene in scenes:
        for key, timing in time_scene(stages, detector, scene, config).items():
            collected.setdefault(key, []).append(timing)
    return {key: pooled(values) for key, values in collected.items()}


def time_scene(stages: dict[str, Any], detector: Detector, scene: Scene, config: Lineage) -> dict[str, Timing]:
    """Every stage on what the stage before it gave for one image, then the whole program."""
    programs = {name: backend.forward(stage, "xla") for name, stage in stages.items()}
    image = backend.to_device(scene.image[None].astype("float32"))
    size = backend.to_device(np.asarray([scene.valid_size], "int32"))
    rois = backend.to_device(scene.proposals[None])
    valid = backend.to_device((scene.proposals[:, 2] > scene.proposals[:, 0])[None])
    features = programs["backbone"](image)
    calls: dict[str, Callable[[], Any]] = {"backbone": lambda: programs["backbone"](image)}
    if "rpn" in programs:
        rpn = programs["rpn"](features)
        rois, valid = programs["propose"]({**rpn, "valid_size": size})
        calls["rpn"] = lambda: programs["rpn"](features)
        calls["propose"] = lambda: programs["propose"]({**rpn, "valid_size": size})
    pooled_regions = programs["roi"]({"features": features, "rois": rois})
    outputs = programs["head"](pooled_regions)
    raw = {**outputs, "proposals": rois, "proposal_valid": valid, "valid_size": size}
    whole = {"image": image, "valid_size": size, "proposals": rois, "proposal_valid": valid}
    program = backend.forward(detector, "xla")
    calls |= {
        "roi": lambda: programs["roi"]({"features": features, "rois": rois}),
        "head": lambda: programs["head"](pooled_regions),
        "nms": lambda: programs["nms"](raw),
        "total": lambda: program(whole),
    }
    return measure(calls, config.warmup, config.repetitions, config.seconds / config.images)[1]


def pooled(timings: list[Timing]) -> Timing:
    """Timings of several images as one: the mean of their medians, the widest spread, all repetitions."""
    return Timing(
        median=float(np.mean([timing.median for timing in timings])),
        p5=min(timing.p5 for timing in timings),
        p95=max(timing.p95 for timing in timings),
        n=sum(timing.n for timing in timings),
        unit=timings[0].unit,
    )


def rcnn_stages(scenes: list[Scene], config: Lineage, progress: Progress) -> dict[str, Timing]:
    """Warping, network, SVMs and box regression, NMS of R-CNN and their sum, in ms; each image once, after a warm-up
    with one batch of regions."""
    side, kinds = config.region, config.num_classes
    network = build(
        Network(name="rcnn", width=config.width, depth=config.depth, input_size=(side, side)), kinds, 3, "infer"
    )
    random = np.random.default_rng(0)
    width, depth = (network.output[name].shape[-1] for name in ("features", "pool5"))
    solved = {
        "weights": random.normal(0, 0.01, (width, kinds)).astype("float32"), "bias": np.zeros(kinds, "float32"),
        "boxes": [random.normal(0, 1e-4, (depth + 1, 4)).astype("float32") for _ in range(kinds)],
        "scale": 1.0, "box_scale": 1.0,
    }  # fmt: skip
    program = backend.forward(Decode(100, SVM_THRESHOLD), "xla")
    seconds: dict[str, list[float]] = {name: [] for name in ("warp", "network", "classify", "nms")}
    features_of(network, np.zeros((1, side, side, 3), "uint8"))
    for number, scene in enumerate(scenes):
        boxes = scene.proposals[scene.proposals[:, 2] > scene.proposals[:, 0]]
        clock = time.perf_counter
        marks = [clock()]
        parts = rcnn.context_boxes(boxes)
        regions = np.stack([warp(scene.image, part, (side, side), vgg.MEAN_RGB) for part in parts])
        marks.append(clock())
        outputs = features_of(network, regions)
        marks.append(clock())
        scores = outputs["features"] @ solved["weights"] + solved["bias"]
        deltas = box_deltas(outputs["pool5"], solved, kinds)
        marks.append(clock())
        decode(program, boxes, deltas, scores, scene.valid_size, config.num_proposals)  # compiles at the first image
        middle = clock()
        decode(program, boxes, deltas, scores, scene.valid_size, config.num_proposals)
        for name, value in zip(seconds, (*np.diff(marks), clock() - middle), strict=True):
            seconds[name].append(float(value))
        progress(0.5 + 0.5 * (number + 1) / len(scenes), f"R-CNN {number + 1}/{len(scenes)}")
    seconds["total"] = [sum(values) for values in zip(*seconds.values(), strict=True)]
    return {name: summary(values, "ms") for name, values in seconds.items()}
