"""R-CNN as its paper trains it: warped regions, fine-tuning, features to disk, linear SVMs, box regression."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from repro import backend
from repro.data.base import open_dataset
from repro.harness import checkpoint
from repro.harness.config import TrainRCNN
from repro.harness.detect import copy_weights, protocol_of, scores_of
from repro.harness.inspection import flops_of, parameter_count, parameters
from repro.harness.learner import build_network, make_learner
from repro.harness.record import Timing, Xla
from repro.harness.run import Job, Run, checkpoint_path, dataset_of, results_of
from repro.harness.stages import write_stages
from repro.harness.timing import summary
from repro.harness.train import fit, initialise, kept_size_of, scale_of, variables_of
from repro.metrics.detection import box_iou
from repro.models import rcnn, vgg
from repro.ops.boxes import clip_boxes, decode_boxes, encode_boxes
from repro.ops.nms import class_nms
from repro.proposals.cache import proposals_of
from repro.proposals.warp import warp
from repro.solvers import ridge_boxes, train_svms

REGIONS = 128  # that go through the network at once
BOX_SAMPLES = 4000  # regions of a class that teach its box regression: 25,088 features each at full width
SVM_THRESHOLD = -1.0  # the margin of the negatives
Progress = Callable[[float, str], None]


class Images:
    """The images of a split with their proposals and objects, decoded once: warped regions come from all of them in
    any order. Objects that are difficult or a crowd are left out."""

    def __init__(self, dataset: Any, split: str, config: TrainRCNN, limit: int | None) -> None:
        self.size, count = kept_size_of(config), min(limit or dataset.size(split), dataset.size(split))
        self.proposals = proposals_of(
            dataset, split, config.proposals, config.num_proposals, limit=limit, **config.search
        )
        self.samples = [dataset.sample(split, index) for index in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [M,4] and classes [M] to learn from."""
        sample = self.samples[index]
        kept = np.ones(len(sample.classes), bool)
        for flags in (sample.difficult, sample.crowd):
            kept &= True if flags is None else ~flags
        return sample.boxes[kept], sample.classes[kept]

    def regions(self, index: int, boxes: np.ndarray) -> np.ndarray:
        """Warped regions uint8 [N,h,w,C] of boxes [N,4], with their context, the mean colour outside the image."""
        image = self.samples[index].image
        fill = vgg.MEAN_RGB if image.shape[2] == 3 else (127.5,) * image.shape[2]
        parts = rcnn.context_boxes(boxes)
        empty = np.zeros((0, *self.size, image.shape[2]), "uint8")
        return np.stack([warp(image, part, self.size, fill) for part in parts]) if len(parts) else empty


class RegionRecords:
    """Fine-tuning's regions (Section 2.3): all proposals and objects of IoU 0.5 and more with an object, and three
    times as many of the others, drawn by the seed. `records[i]`: image uint8 [h,w,C], label (0 = background)."""

    def __init__(self, images: Images, seed: int) -> None:
        self._images, table = images, []
        for index in range(len(images)):
            truth, classes = images.objects(index)
            boxes = np.concatenate([truth, images.proposals[index]])
            overlap = box_iou(boxes, truth) if len(truth) else np.zeros((len(boxes), 1))
            classes = classes if len(truth) else np.zeros(1, "int32")
            labels = np.where(overlap.max(axis=1) >= rcnn.POSITIVE_IOU, classes[overlap.argmax(axis=1)] + 1, 0)
            table += [(index, box, int(label)) for box, label in zip(boxes, labels, strict=True)]
        positives, others = ([row for row in table if bool(row[2]) == wanted] for wanted in (True, False))
        wanted = round(len(positives) * (1 / rcnn.POSITIVE_SHARE - 1))
        chosen = np.random.default_rng(seed).permutation(len(others))[:wanted]
        self._table = [*positives, *(others[number] for number in chosen)]

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        index, box, label = self._table[number]
        image = self._images.regions(index, box[None])[0]
        return {"image": image, "valid_size": np.asarray(image.shape[:2], "int32"), "label": np.asarray(label, "int32")}


class Decode(keras.Model):
    """SVM scores and box deltas of one image's proposals to its detections."""

    def __init__(self, max_detections: int, threshold: float) -> None:
        super().__init__(name="decode", autocast=False)
        self.max_detections, self.threshold = max_detections, threshold
        self.built = True  # it has no weights, and JAX asks

    def call(self, inputs, training=False):
        """proposals [1,P,4], deltas [1,P,K,4], scores [1,P,K] (-inf = padding), size [1,2] (height, width)."""
        boxes = decode_boxes(inputs["deltas"], inputs["proposals"][:, :, None])
        flat = keras.ops.reshape(boxes, (1, -1, 4))
        boxes = keras.ops.reshape(clip_boxes(flat, inputs["size"]), boxes.shape)
        return class_nms(boxes, inputs["scores"], rcnn.NMS_IOU, self.threshold, self.max_detections)


def features_of(network: keras.Model, regions: np.ndarray) -> dict[str, np.ndarray]:
    """The network's outputs for regions uint8 [N,h,w,C], as NumPy [N,...]; REGIONS at a time, under XLA."""
    program = backend.forward(network, "xla")
    parts: list[dict[str, np.ndarray]] = []
    for first in range(0, max(1, len(regions)), REGIONS):
        part = regions[first : first + REGIONS]
        padded = np.zeros((REGIONS, *regions.shape[1:]), "float32")
        padded[: len(part)] = part
        found = program(keras.ops.convert_to_tensor(padded))
        parts.append({name: np.asarray(keras.ops.convert_to_numpy(v))[: len(part)] for name, v in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def train_rcnn(job: Job, progress: Progress) -> None:
    """Run every seed of a job. Writes one result a seed."""
    config: TrainRCNN = job.config
    tf32 = backend.set_precision(config.precision)
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    names, data = dataset.info.classes, config.data
    train = Images(dataset, data.train, config, data.train_limit)
    test = Images(dataset, data.test, config, config.test_limit)
    learner = None
    for done, seed in enumerate(job.seeds):
        run = Run(job, seed)
        records = RegionRecords(train, seed)
        steps = max(1, round(config.epochs * len(records) / config.batch_size))
        fresh = make_learner(config, len(names), seed, steps, dataset.info.channels)
        start = initialise(fresh.network, job, seed, results_of(job.parent.experiment) if job.parent else [])
        if learner is None:
            learner, network = fresh, build_network(config.network, len(names), dataset.info.channels)
        else:  # the compiled step belongs to the first learner: give it the new start
            for mine, new in zip(variables_of(learner), variables_of(fresh), strict=True):
                mine.assign(new.value)

        def report(fraction: float, note: str, done: int = done, seed: int = seed) -> None:
            progress((done + fraction) / len(job.seeds), f"seed {seed} {note}")

        history = fit(learner, config, run, seed, records, dict, steps, lambda at, note: report(0.5 * at, note))
        copy_weights(learner.network, network)
        seconds = {"fine-tuning": sum(history["seconds"])}  # what an interrupted run did before, too
        folder = run.folder / "features"
        try:
            solved = solve(
                network, train, names, folder, seconds, lambda at, note: report(0.5 + 0.2 * at, note), config.svm_cache
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        found = detections_of(network, solved, test, config, lambda at, note: report(0.7 + 0.3 * at, note))
        finish(run, network, dataset, names, found, solved, history, start, steps, len(train), seconds, tf32)
        report(1.0, "scored")


def solve(
    network: keras.Model, images: Images, names: tuple[str, ...], folder: Path, seconds: dict[str, float],
    report: Progress, cache: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """SVMs (Section 2.3) and box regressions (Appendix C) of a fine-tuned network, from features on the disk.

    Adds the seconds of its parts to `seconds`. Returns what `train_svms` does, with `boxes`, for each class the
    regression's weights or None, `box_scale`, and `bytes`, what the features of an image take on average."""
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    positives: list[list[np.ndarray]] = [[] for _ in names]
    lessons: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in names]
    size, norms = 0, []
    for index in range(len(images)):
        truth, classes = images.objects(index)
        proposals = images.proposals[index]
        found = features_of(network, images.regions(index, np.concatenate([proposals, truth]).astype("float32")))
        features = found["features"].astype("float16")
        overlap = overlaps_of(proposals, truth, classes, len(names))
        path = folder / f"{index}.npz"
        np.savez(path, features=features[: len(proposals)], overlap=overlap)
        size += path.stat().st_size
        for box, kind in enumerate(classes):
            positives[kind].append(features[len(proposals) + box])
        norms.append(np.linalg.norm(found["pool5"][: len(proposals)], axis=1))
        collect_lessons(lessons, found["pool5"], np.concatenate([proposals, truth]), truth, classes)
        report((index + 1) / len(images), f"features {index + 1}/{len(images)}")
    seconds["features"] = time.perf_counter() - started

    def stream() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in range(len(images)):
            with np.load(folder / f"{index}.npz") as arrays:
                yield arrays["features"], arrays["overlap"]

    started = time.perf_counter()
    width = network.output["features"].shape[-1]
    solved = train_svms(
        [np.array(rows, "float16").reshape(-1, width) for rows in positives], stream, len(names),
        negative_iou=rcnn.NEGATIVE_IOU, cache=cache,
    )  # fmt: skip
    seconds["SVMs"] = time.perf_counter() - started
    started = time.perf_counter()
    scale = 20.0 / float(np.concatenate(norms).mean())
    boxes = []
    for rows in lessons:
        rows = rows[:BOX_SAMPLES]
        boxes.append(
            ridge_boxes(*(np.stack(column) for column in zip(*rows, strict=True)), scale=scale) if rows else None
        )
    seconds["box regression"] = time.perf_counter() - started
    return {**solved, "boxes": boxes, "box_scale": scale, "bytes": size / len(images)}


def overlaps_of(proposals: np.ndarray, truth: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """The highest IoU of each proposal with an object of each class, float32 [P,K]."""
    overlap = np.zeros((len(proposals), num_classes), "float32")
    iou = box_iou(proposals, truth)
    for column, kind in enumerate(classes):
        overlap[:, kind] = np.maximum(overlap[:, kind], iou[:, column])
    return overlap


def collect_lessons(
    lessons: list[list], features: np.ndarray, regions: np.ndarray, truth: np.ndarray, classes: np.ndarray
) -> None:
    """Add (pool5, deltas to the nearest object) of the regions close to an object, class by class."""
    if not len(truth):
        return
    iou = box_iou(regions, truth)
    nearest = iou.argmax(axis=1)
    targets = np.asarray(keras.ops.convert_to_numpy(encode_boxes(truth[nearest], regions)))
    for row in np.flatnonzero(iou.max(axis=1) > rcnn.BOX_IOU):
        kind = classes[nearest[row]]
        if len(lessons[kind]) < BOX_SAMPLES:
            lessons[kind].append((features[row].astype("float32"), targets[row]))


def detections_of(
    network: keras.Model, solved: dict[str, Any], images: Images, config: TrainRCNN, report: Progress
) -> dict[str, Any]:
    """Detections of every image with and without box regression, and by the softmax of fine-tuning; seconds by stage.

    `full`, `unrefined`, `softmax`: lists of boxes, scores, classes; `seconds`: stage to a list."""
    count, kinds = config.num_proposals, len(solved["boxes"])
    decoders = {name: Decode(100, level) for name, level in (("svm", SVM_THRESHOLD), ("softmax", 0.05))}
    programs = {name: backend.forward(decoder, "xla") for name, decoder in decoders.items()}
    found: dict[str, Any] = {"full": [], "unrefined": [], "softmax": []}
    seconds: dict[str, list[float]] = {name: [] for name in ("proposals", "warp", "network", "SVMs and boxes", "NMS")}
    for index in range(len(images)):
        proposals, clock = images.proposals[index], time.perf_counter
        marks = [clock()]
        regions = images.regions(index, proposals)
        marks.append(clock())
        outputs = features_of(network, regions)
        marks.append(clock())
        scores = (outputs["features"] * solved["scale"]) @ solved["weights"] + solved["bias"]
        deltas = box_deltas(outputs["pool5"], solved, kinds)
        marks.append(clock())
        size = images.samples[index].image.shape[:2]
        found["full"].append(decode(programs["svm"], proposals, deltas, scores, size, count))
        marks.append(clock())
        for name, value in zip(seconds, (images.proposals.seconds(index), *np.diff(marks)), strict=True):
            seconds[name].append(float(value))
        found["unrefined"].append(decode(programs["svm"], proposals, 0 * deltas, scores, size, count))
        shares = np.exp(outputs["scores"] - outputs["scores"].max(axis=1, keepdims=True))
        shares = (shares / shares.sum(axis=1, keepdims=True))[:, 1:]
        found["softmax"].append(decode(programs["softmax"], proposals, 0 * deltas, shares, size, count))
        report((index + 1) / len(images), f"scored {index + 1}/{len(images)}")
    return {**found, "seconds": seconds}


def box_deltas(pool5: np.ndarray, solved: dict[str, Any], num_classes: int) -> np.ndarray:
    """Deltas float32 [P,K,4] of regions by their pool5 features [P,D]; 0 for classes without a regression."""
    deltas = np.zeros((len(pool5), num_classes, 4), "float32")
    for kind, weights in enumerate(solved["boxes"]):
        if weights is not None:
            deltas[:, kind] = (pool5 * solved["box_scale"]) @ weights[:-1] + weights[-1]
    return deltas


def decode(
    program: Callable[..., dict], proposals: np.ndarray, deltas: np.ndarray, scores: np.ndarray, size: tuple[int, int],
    count: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Detections of one image: boxes [n,4], scores [n], classes [n]. Arrays are padded to `count` proposals."""
    number, kinds = scores.shape
    padded = {
        "proposals": np.zeros((1, count, 4), "float32"), "deltas": np.zeros((1, count, kinds, 4), "float32"),
        "scores": np.full((1, count, kinds), -np.inf, "float32"), "size": np.asarray([size], "float32"),
    }  # fmt: skip
    for name, values in (("proposals", proposals), ("deltas", deltas), ("scores", scores)):
        padded[name][0, :number] = values
    found = program({name: keras.ops.convert_to_tensor(value) for name, value in padded.items()})
    found = {name: np.asarray(keras.ops.convert_to_numpy(value))[0] for name, value in found.items()}
    return {name: found[name][: int(found["count"])] for name in ("boxes", "scores", "classes")}


def finish(
    run: Run, network: keras.Model, dataset: Any, names: tuple[str, ...], found: dict[str, Any],
    solved: dict[str, Any], history: dict, start: tuple, steps: int, train_images: int, seconds: dict[str, float],
    tf32: bool,
) -> None:  # fmt: skip
    """Score the detections once on the test split, keep the weights, and write the result."""
    config: TrainRCNN = run.job.config
    (init, depends_on, seen_before), split = start, config.data.test
    metrics = scores_of(found["full"], (None,), dataset, split, names, ())
    for name in ("unrefined", "softmax"):
        metrics[f"map_{name}"] = scores_of(found[name], (None,), dataset, split, names, ())["map"]
    metrics |= {
        "params": parameter_count(parameters(network)[0]),
        "flops": config.num_proposals * sum(map(flops_of, network.layers)),
        "chain_images_seen": steps * config.batch_size + seen_before,
        "feature_bytes": round(solved["bytes"]), "train_images": train_images,
        "training_seconds": {name: round(value, 2) for name, value in seconds.items()},
        "svm_positives": [entry["positives"] for entry in solved["stats"]],
    }  # fmt: skip
    weights = run.folder / "weights.safetensors"
    arrays = checkpoint.weights_of(network) | {
        "svm/weights": solved["weights"], "svm/bias": solved["bias"],
        "svm/scales": np.array([solved["scale"], solved["box_scale"]], "float32"),
        **{f"boxes/{name}": value for name, value in zip(names, solved["boxes"], strict=True) if value is not None},
    }  # fmt: skip
    checkpoint.save_arrays(weights, arrays, {"model": "rcnn", "run": f"{run.job.experiment}/{run.run_id}"})
    run.finish(
        scale=scale_of(config, dataset, init, kept_size_of(config)),
        metrics=metrics,
        protocol={
            **protocol_of(config),
            "inference": f"{config.num_proposals} proposals warped to {'x'.join(map(str, kept_size_of(config)))}",
            "detections": f"SVM scores above {SVM_THRESHOLD:g} (0.05 of the softmax), non-maximum suppression at IoU "
            f"{rcnn.NMS_IOU:g} in each class, the best 100 of an image",
            **({"svm_cache": f"at most {config.svm_cache} negatives a class"} if config.svm_cache else {}),
            "feature_bytes": "fc7 of the proposals and their overlaps with the objects, float16, an image on the disk",
            "map_unrefined": "without box regression",
            "map_softmax": "fine-tuning's softmax in place of the SVMs, without box regression",
        },
        dataset=dataset_of(dataset, split),
        init=init,
        depends_on=depends_on,
        weights_sha256=checkpoint.sha256_of(weights),
        tf32=tf32,
        xla=Xla(requested=True, used=True),
        deterministic=backend.accelerator_count() == 0,
        epochs=config.epochs,
        images_seen=steps * config.batch_size,
        timings={
            "epoch": summary(history["seconds"][1:] or history["seconds"], "s"),  # the first compiles
            **{f"stage.{name}": stage(values) for name, values in found["seconds"].items()},
        },
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
        history={key: value for key, value in history.items() if value},
        artifacts=write_stages(None, [(entry, None) for entry in found["full"]], None, run),
    )
    checkpoint_path(run.job, run.seed).unlink(missing_ok=True)


def stage(values: list[float]) -> Timing:
    """Milliseconds of one stage; the first image compiles."""
    return summary(values[1:] or values, "ms")
