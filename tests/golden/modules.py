"""What metrics, tasks, solvers, proposals and the making of records give for small made-up inputs, by module."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from repro.data.base import VOID, Info, Sample
from repro.data.border_weights import border_weights
from repro.data.cache import centre_crop, letterbox
from repro.data.frequency import median_frequency_weights
from repro.data.masks import crop_mask, decode_rle, encode_rle, paste_mask
from repro.metrics.classification import classification_scores, top_k_correct
from repro.metrics.coco import coco_ap
from repro.metrics.detection import proposal_recall, voc_ap
from repro.metrics.instance import coco_mask_ap, mask_iou
from repro.metrics.rand import RandScore, rand_score
from repro.metrics.segmentation import confusion_matrix, segmentation_scores
from repro.proposals.cache import proposals_of
from repro.proposals.selective_search import selective_search
from repro.proposals.warp import warp
from repro.solvers import kmeans_boxes, ridge_boxes, train_svms
from repro.tasks import RCNN, Classification, Detection, Instance, Segmentation, Yolo

NAMES = ("a", "b", "c")
VALUES: dict[str, Callable[[], dict[str, Any]]] = {}


def answers(function: Any) -> Any:
    """Enter a function as what gives the values of the module it is named after: `metrics_coco` of metrics.coco."""
    VALUES[function.__name__.replace("_", ".", 1)] = function
    return function


def numbers(values: Any) -> list[float]:
    """Floats with the digits that are compared."""
    return [float(f"{value:.8g}") for value in np.asarray(values, "float64").ravel()]


def summary(values: Any) -> list[float]:
    """A small array whole; of a large one mean and deviation, and the means of five parts, weighted by place, so that
    a shift moves them and no single rounding does."""
    flat = np.asarray(values, "float64").ravel()
    if flat.size <= 24:
        return numbers(flat)
    weighted = flat * (np.arange(flat.size) % 13)
    return numbers([flat.mean(), flat.std(), *(part.mean() for part in np.array_split(weighted, 5))])


def summaries(fields: dict[str, Any]) -> dict[str, list[float]]:
    return {key: summary(value) for key, value in fields.items()}


class Made:
    """A data set of three images made up by NumPy: crowded, with a difficult object and a crowd; small; empty."""

    info = Info(
        name="made", title="", source="", version="", licence="", size="", splits=("test",), tasks=(), classes=NAMES,
        semantic_classes=("background", *NAMES), segments_class=1,
    )  # fmt: skip
    options: ClassVar[dict[str, Any]] = {}

    def fingerprint(self, split: str) -> str:
        return "made"

    def size(self, split: str) -> int:
        return 3

    def sample(self, split: str, index: int) -> Sample:
        size, count, rng = ((40, 52), (33, 48), (30, 30))[index], (6, 3, 0)[index], np.random.default_rng(index)
        blocks = np.kron(rng.integers(0, 256, (5, 7, 3)), np.ones((8, 8, 1)))[: size[0], : size[1]]
        image = np.clip(blocks + rng.integers(-9, 10, (*size, 3)), 0, 255).astype("uint8")
        low = rng.integers(0, 18, (count, 2))
        boxes = np.concatenate([low, low + rng.integers(6, 12, (count, 2))], axis=1).astype("float32")
        y, x = np.mgrid[: size[0], : size[1]]
        masks = np.zeros((count, *size), bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[:] = ((2 * x + 1 - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y + 1 - y1 - y2) / (y2 - y1)) ** 2 <= 1
            mask &= x - x1 > (y - y1) / 3  # no ellipse is its own mirror image
        classes = np.array([0, 1, 0, 2, 1, 0], "int32")[:count]
        semantic = np.zeros(size, "uint8")
        for mask, kind in zip(masks, classes, strict=True):
            semantic[mask] = kind + 1
        semantic[:2] = VOID
        flags = [np.arange(count) == which for which in (4, 5)]
        return Sample(
            f"made-{index}", image, int(index), semantic, boxes, classes, masks, difficult=flags[0], crowd=flags[1],
            pixel_weight=rng.uniform(0.5, 2, size).astype("float32"),
        )  # fmt: skip


def samples() -> list[Sample]:
    return [Made().sample("test", index) for index in range(3)]


def truths() -> list[dict[str, Any]]:
    """The objects of the made-up images, as metrics take them."""
    return [
        {"boxes": sample.boxes, "classes": sample.classes, "difficult": sample.difficult, "crowd": sample.crowd,
         "masks": list(map(encode_rle, sample.masks))}
        for sample in samples()
    ]  # fmt: skip


def predictions() -> list[dict[str, Any]]:
    """Every object twice, moved by some pixels, some of another class, with scores that tie; and one too many."""
    found, rng = [], np.random.default_rng(7)
    for sample in samples():
        boxes = np.concatenate([sample.boxes, sample.boxes, [[3, 4, 9, 12]]]).astype("float32")
        boxes[:, :2] += rng.integers(-1, 2, (len(boxes), 2))
        boxes[:, 2:] += rng.integers(-1, 3, (len(boxes), 2))
        classes = np.array([*sample.classes, *sample.classes, 1], "int32")
        classes[::4] = (classes[::4] + 1) % 3
        masks = [np.roll(mask, 1, axis=0) for mask in (*sample.masks, *sample.masks)]
        masks.append(np.arange(sample.image[..., 0].size).reshape(sample.image.shape[:2]) % 3 == 0)
        scores = np.round(rng.random(len(boxes)), 1).astype("float32")
        found.append({"boxes": boxes, "classes": classes, "scores": scores, "masks": list(map(encode_rle, masks))})
    return found


def scored(task: Any, given: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]], **options: Any) -> dict:
    """What a task's evaluator says of predictions."""
    evaluator = task.evaluator(Made(), "test", len(given), **options)
    for index, (prediction, record) in enumerate(zip(given, records, strict=True)):
        evaluator.add(index, prediction, record)
    return evaluator.metrics()


SIZES = [(40, 52), (33, 48), (30, 30)]


@answers
def metrics_classification() -> dict[str, Any]:
    scores = np.random.default_rng(0).integers(0, 5, (9, 7)).astype("float32")  # with ties
    scores[3, 2] = np.nan
    hits = [top_k_correct(scores, np.arange(9) % 7, k) for k in (1, 5)]
    return {"hits": [each.tolist() for each in hits], **classification_scores(*(int(each.sum()) for each in hits), 9)}


@answers
def metrics_segmentation() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 3, (20, 30)).astype("uint8"), rng.integers(0, 4, (20, 30)).astype("uint8")
    truth[:3] = VOID
    return segmentation_scores(confusion_matrix(truth, found, 5), "abcde")


@answers
def metrics_rand() -> dict[str, Any]:
    score = RandScore()
    for sample, rng in zip(samples(), map(np.random.default_rng, range(3)), strict=True):
        score.add(
            sample.semantic == 0,
            np.clip((sample.semantic == 0) * 0.6 + rng.uniform(-0.2, 0.4, sample.semantic.shape), 0, 1),
        )
    first = samples()[0]
    return {"volume": score.result(), "image": rand_score(first.semantic.astype(int), first.semantic != 1)}


@answers
def metrics_detection() -> dict[str, Any]:
    found = predictions()
    settings = [(0.5, False), (0.5, True), (0.7, False)]
    return {
        "voc": [voc_ap(found, truths(), 4, *each) for each in settings],
        "recall": proposal_recall([each["boxes"] for each in found], truths(), counts=(2, 5, 20)),
    }


@answers
def metrics_coco() -> dict[str, Any]:
    return coco_ap(predictions(), truths(), SIZES, 3)


@answers
def metrics_instance() -> dict[str, Any]:
    given = predictions(), truths()
    return {"ap": coco_mask_ap(*given, SIZES, 3), "iou": mask_iou(*given, 3)}


@answers
def tasks_classification() -> dict[str, Any]:
    scores = np.random.default_rng(0).normal(size=(3, 3))
    return scored(Classification(), [{"scores": row} for row in scores], [{"label": np.asarray(n)} for n in (0, 1, 0)])


@answers
def tasks_segmentation() -> dict[str, Any]:
    rng, records, given = np.random.default_rng(0), [], []
    for sample in samples():
        records.append(letterbox(sample, (24, 28)))
        right = records[-1]["semantic"][..., None] == np.arange(4)
        given.append({"scores": (right + rng.normal(0, 0.4, right.shape)).astype("float32")})
    return {str(curve): scored(Segmentation(), given, records, curve=curve) for curve in (False, True)}


@answers
def tasks_detection() -> dict[str, Any]:
    given = [found | {"proposals": found["boxes"]} for found in predictions()]
    return scored(Detection(), given, [{}] * 3)


@answers
def tasks_instance() -> dict[str, Any]:
    return scored(Instance(), predictions(), [{}] * 3)


@answers
def tasks_rcnn() -> dict[str, Any]:
    given = []
    for found in predictions():
        others = {"unrefined": {"scores": -found["scores"]}, "softmax": {"scores": 0 * found["scores"]}}
        given.append({"full": found, "seconds": {}, **{name: found | other for name, other in others.items()}})
    return scored(RCNN(), given, [{}] * 3)


@answers
def tasks_yolo() -> dict[str, Any]:
    from repro.tasks.learners import side_at

    kinds = []
    for sizes, augment in (((), {}), ((), {"flip": True}), ((), {"hue": 0.1}), ((64, 96), {"flip": True})):
        changes = Yolo(sizes=sizes).augmentation(SimpleNamespace(augment=augment), 0)
        kinds.append({key: value for key, value in vars(changes or SimpleNamespace()).items() if key != "generator"})
    return {"kinds": kinds, "sides": [side_at(step, 3, (64, 96, 128), 2) for step in range(12)]}


@answers
def engine_train() -> dict[str, Any]:
    """The optimizer of some settings: its rates over ten steps, and what three steps make of a weight."""
    import keras

    from repro.tasks.learners import make_optimizer

    plain = dict(
        learning_rate=0.1, momentum=0.9, weight_decay=0.01, clip_norm=None, drops=(0.5,), warmup=0.0, burn_in=0.0
    )
    found = {}
    for optimizer, schedule, more in (
        ("sgd", "step", {"burn_in": 0.3}),
        ("sgd", "cosine", {"warmup": 0.2, "clip_norm": 0.5}),
        ("adamw", "constant", {}),
    ):
        made = make_optimizer(SimpleNamespace(optimizer=optimizer, schedule=schedule, **plain | more), 10)
        weight, rates = keras.Variable([1.0, -2.0]), []
        for _ in range(10):
            rates.append(float(made.learning_rate))
            made.apply([keras.ops.convert_to_tensor([0.3, -0.7])], [weight])
        found[f"{optimizer} {schedule}"] = numbers([*rates, *keras.ops.convert_to_numpy(weight)])
    return found


def on_device(change: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Augmented batches, summed up; two of them."""
    import keras

    found = [change({key: keras.ops.convert_to_tensor(value) for key, value in batch.items()}) for _ in range(2)]
    return {key: [summary(keras.ops.convert_to_numpy(each[key])) for each in found] for key in found[0]}


def batch_of(fit: Callable[[Sample], dict[str, Any]]) -> dict[str, np.ndarray]:
    records = [fit(sample) for sample in samples()[:2]]
    return {key: np.stack([record[key] for record in records]) for key in records[0]}


@answers
def data_augment() -> dict[str, Any]:
    from repro.data.augment import Augment

    batch = batch_of(lambda sample: letterbox(sample, (28, 36)))
    options = {"crop": {"crop": (20, 24), "flip": True, "jitter": 3, "zoom": (0.8, 1.2), "grey": 0.2},
               "deform": {"rotate": 20, "elastic": 2}}  # fmt: skip
    return {name: on_device(Augment(3, **each), batch) for name, each in options.items()}


@answers
def data_jitter() -> dict[str, Any]:
    from repro.data.detection import fit_boxes
    from repro.data.jitter import Jitter

    batch = batch_of(lambda sample: fit_boxes(sample, (28, 36), 6))
    return {"same": on_device(Jitter(3, flip=True, hue=0.1), batch), "size": on_device(Jitter(3, size=24), batch)}


@answers
def data_detection() -> dict[str, Any]:
    from repro.data.detection import Mirror, WithProposals, fit_boxes

    records = [fit_boxes(sample, (28, 36), 6) for sample in samples()[:2]]
    records = WithProposals(records, [each["boxes"] for each in predictions()], 8)
    batch = {key: np.stack([record[key] for record in records]) for key in records[0]}
    return {"record": summaries(records[0]), "mirrored": on_device(Mirror(3), batch)}


@answers
def data_instance() -> dict[str, Any]:
    from repro.data.instance import MirrorInstances, fit_instances

    batch = batch_of(lambda sample: fit_instances(sample, (28, 36), 6))
    return {"masks": summary(batch["masks"]), "mirrored": on_device(MirrorInstances(3), batch)["masks"]}


@answers
def data_cache() -> dict[str, Any]:
    return {
        f"{fit.__name__} {size}": summaries(fit(samples()[0], size))
        for fit in (letterbox, centre_crop)
        for size in ((28, 30), (70, 90))
    }


@answers
def data_masks() -> dict[str, Any]:
    box, mask = (4.3, -2.1, 27.6, 19.4), samples()[0].masks.any(axis=0)
    cropped = crop_mask(mask, box, 7)
    pasted = paste_mask(np.random.default_rng(0).random((7, 7)), box, (20, 30))
    return {
        "cropped": summary(cropped),
        "rle": encode_rle(pasted)["counts"],
        "pixels": int(decode_rle(encode_rle(pasted)).sum()),
    }


@answers
def data_border_weights() -> dict[str, Any]:
    cells = samples()[0].masks.argmax(axis=0)
    return {
        "paper": summary(border_weights(cells)),
        "plain": summary(border_weights(cells, 3.0, 2.0, class_balance=False)),
    }


@answers
def data_frequency() -> dict[str, Any]:
    return {"weights": median_frequency_weights(Made(), "test", 5)}


@answers
def proposals_selective_search() -> dict[str, Any]:
    """Of an image of rectangles."""
    image = np.kron(samples()[0].image, np.ones((2, 2, 1), "uint8"))
    found = {
        mode: selective_search(image, mode, width=width, min_side=8)
        for mode, width in (("fast", None), ("quality", 90))
    }
    return {mode: [len(boxes), *numbers(boxes[:5]), *summary(boxes)] for mode, boxes in found.items()}


@answers
def proposals_cache() -> dict[str, Any]:
    found = proposals_of(Made(), "test", max_boxes=9, width=None, min_side=8, workers=1)
    return {"boxes": [[len(boxes), *summary(boxes)] for boxes in (found[index] for index in range(3))]}


@answers
def proposals_warp() -> dict[str, Any]:
    image = samples()[0].image
    boxes = (-3.2, 5, 20, 33.5), (4, 4, 9, 9), (60, 1, 60, 9)
    return {"parts": [summary(warp(image, box, (16, 20), (120, 110, 100))) for box in boxes]}


@answers
def solvers() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (3, 30, 6)).astype("float32")
    overlaps = rng.uniform(0, 0.6, (3, 30, 2))
    positives = [rng.normal(1, 0.5, (8, 6)).astype("float32"), np.zeros((0, 6), "float32")]
    solved = train_svms(positives, lambda: zip(features, overlaps, strict=True), 2, retrain_after=20)
    sizes = rng.uniform(5, 60, (80, 2))
    return {
        "weights": numbers(solved["weights"]), "bias": numbers(solved["bias"]), "scale": solved["scale"],
        "objective": numbers(solved["stats"][0]["objective"]), "negatives": solved["stats"][0]["negatives"],
        "ridge": numbers(ridge_boxes(features[0], rng.normal(0, 1, (30, 4)), scale=solved["scale"])),
        "anchors": numbers(kmeans_boxes(sizes, 4)), "means": numbers(kmeans_boxes(sizes, 3, update="mean")),
    }  # fmt: skip
