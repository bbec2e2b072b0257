"""Golden values: what every architecture, metric, task and loader gives for small made-up inputs.

`python -m tests.golden.values --write` writes golden.json anew. It refuses where values moved and no VERSION was
raised; where a library moved them, delete golden.json first.
"""

import functools
import importlib
import inspect
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from repro import backend, registry
from repro.data.catalog import LOADERS
from repro.data.masks import decode_rle
from repro.records.settings import Data, Network
from repro.records.versions import PACKAGE, versions_of
from repro.tasks import task_for
from tests.golden import modules
from tests.golden.loaders import loader_values
from tests.golden.modules import Made, numbers, summary

FILE = Path(__file__).with_name("golden.json")
COMMAND = "python -m tests.golden.values --write"
CLASSES = 3
TOLERANCES = {"losses": 5e-4, "scores": 1e-3, "masks": 1e-3, "solved": 1e-3}

_FAST = {"proposals": 12, "max_boxes": 4, "rois": 8}
_RPN = {"max_boxes": 4, "rois": 8, "rpn_sample": 8, "before_nms": (60, 40), "after_nms": (16, 12)}
_ANCHORS = {"anchor_scales": (1, 2), "min_size": 4}
# learning rate, and the network at a sixteenth of its width
SMALL: dict[str, tuple[float, dict[str, Any]]] = {
    "vgg16": (1e-4, {"input_size": (32, 32), "depth": 0.3}),
    "googlenet": (1e-4, {"input_size": (64, 64), "depth": 0.3}),
    "resnet101": (1e-3, {"input_size": (64, 64), "depth": 0.01}),
    "darknet19": (1e-3, {"input_size": (64, 64), "depth": 0.3}),
    "darknet53": (1e-3, {"input_size": (64, 64), "depth": 0.1}),
    "extraction": (1e-2, {"input_size": (64, 64), "depth": 0.1}),
    "fcn32s": (1e-1, {"input_size": (32, 40), "depth": 0.3}),
    "fcn16s": (1e-1, {"input_size": (32, 40), "depth": 0.3}),
    "fcn8s": (1e-1, {"input_size": (32, 40), "depth": 0.3}),
    "fcn_googlenet": (1e-1, {"input_size": (32, 40), "depth": 0.3}),
    "segnet": (1e-3, {"input_size": (32, 40), "depth": 0.3}),
    "unet": (1e-3, {"input_size": (60, 60), "depth": 0.5}),
    "rcnn": (1e-4, {"input_size": (32, 32), "depth": 0.3}),
    "fast_rcnn": (1e-4, {"input_size": (64, 64), "depth": 0.3, "options": _FAST}),
    "faster_rcnn": (1e-4, {"input_size": (64, 64), "depth": 0.3, "options": _RPN | _ANCHORS}),
    "faster_rcnn_resnet101": (1e-4, {"input_size": (64, 64), "depth": 0.01, "options": _RPN | _ANCHORS}),
    "yolo_v1": (1e-4, {"input_size": (128, 64), "depth": 0.1}),
    "fast_yolo": (1e-5, {"input_size": (128, 128)}),
    "yolo_v2": (1e-4, {"input_size": (64, 96), "depth": 0.1}),
    "yolo_v3": (1e-4, {"input_size": (64, 64), "depth": 0.1}),
    "mask_rcnn": (1e-4, {"input_size": (64, 64), "depth": 0.01, "options": _RPN | _ANCHORS | {"max_detections": 10}}),
    "mask_rcnn_fpn": (1e-4, {"input_size": (64, 64), "depth": 0.01, "options": _RPN | {"max_detections": 10}}),
}  # fmt: skip


def boxes_in(rng: np.random.Generator, count: int, size: np.ndarray, low: float = 0.08) -> np.ndarray:
    """Boxes float32 [count,4] inside an image of (height, width)."""
    centre, half = (rng.uniform(*span, (count, 2)) * size[::-1] for span in ((0.25, 0.75), (low, 0.25)))
    return np.concatenate([centre - half, centre + half], axis=1).astype("float32")


def record_of(name: str, number: int) -> dict[str, np.ndarray]:
    """A record as the architecture's task has it, of coloured blocks with noise, padded at the right by 8 pixels."""
    entry, network, rng = registry.architecture(name), SMALL[name][1], np.random.default_rng(number)
    size, channels = network["input_size"], entry.channels
    blocks = rng.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), channels))
    image = np.kron(blocks, np.ones((8, 8, 1)))[: size[0], : size[1]] + rng.integers(-20, 21, (*size, channels))
    valid = np.array([size[0], size[1] - 8], "int32")
    record = {"image": np.clip(image, 0, 255).astype("uint8"), "valid_size": valid}
    if entry.task == "classification" or name == "rcnn":
        return record | {"label": np.asarray(rng.integers(0, CLASSES), "int32")}
    if entry.task == "segmentation":
        semantic = rng.integers(0, CLASSES, size).astype("uint8")
        semantic[0], semantic[:, valid[1] :] = 255, 255
        weight = {"pixel_weight": rng.uniform(0.5, 3, size).astype("float32")} if name == "unet" else {}
        return record | {"semantic": semantic} | weight
    boxes, classes = boxes_in(rng, 4, valid), np.array([0, 2, 1, 1], "int32")
    boxes[3 - number :], classes[3 - number :] = 0, -1
    record |= {"original_size": 2 * valid, "boxes": boxes, "classes": classes}
    if name == "fast_rcnn":
        near = boxes[:3] + rng.uniform(-1, 1, (3, 4))
        proposals = np.concatenate([near, boxes_in(rng, 9, valid)]).astype("float32")
        record |= {"proposals": proposals, "proposal_valid": np.arange(12) < 11}
    if entry.task == "instance":
        record["masks"] = (255 * np.kron(rng.random((4, 7, 7)) > 0.4, np.ones((8, 8)))).astype("uint8")
    return record


def settings_of(name: str, compile: str = "graph") -> Any:
    """Three steps of plain SGD, eager by default."""
    from repro.experiments.train import Train

    rate, network = SMALL[name]
    return Train(
        network=Network(name=name, width=1 / 16, **network), data=Data(name="made"), recipe="suite", epochs=1,
        batch_size=2, optimizer="sgd", momentum=0.0, learning_rate=rate, compile=compile, task=task_for(name),
    )  # fmt: skip


def trained(name: str, compile: str = "graph") -> tuple[Any, list[float]]:
    """A learner after three steps of one batch, and its losses; eager, unless `compile` is "xla"."""
    settings, records = settings_of(name, compile), [record_of(name, number) for number in range(2)]
    learner = settings.task.learner(settings, CLASSES, 0, 3, records)
    learner.run_eagerly = compile == "graph"
    batch = {key: np.stack([record[key] for record in records]) for key in records[0]}
    return learner, [float(learner.train_on_batch(batch)) for _ in range(3)]


def network_values(name: str) -> dict[str, Any]:
    """Losses of three steps of an architecture, and what is decoded."""
    import keras

    if name not in SMALL:
        return {}
    task = task_for(name).name
    eager = mock.patch.object(backend, "forward", lambda model, mode: functools.partial(model, training=False))
    with eager, keras.device("cpu:0"):
        learner, losses = trained(name)
        decode = {"rcnn": regions, "classification": dense, "segmentation": dense}.get(task, detections)
        decoded = decode(name, learner.network)
    return {"losses": numbers(losses), **decoded}


def constants_of(module: str) -> dict[str, Any]:
    """The numbers in a paper file, its constants and the defaults of its functions: small networks use few of them."""
    loaded = importlib.import_module(f"repro.{module}")
    found: dict[str, dict[str, Any]] = {"constants": {}, "defaults": {}}
    for key, value in vars(loaded).items():
        if key.isupper() and key != "VERSION" and _of_numbers(value):
            found["constants"][key] = value
        if inspect.isfunction(value) and value.__module__ == loaded.__name__:
            for parameter in inspect.signature(value).parameters.values():
                if _of_numbers(parameter.default):
                    found["defaults"][f"{key}.{parameter.name}"] = parameter.default
    return found


def _of_numbers(value: Any) -> bool:
    if isinstance(value, tuple | list | dict):
        return all(map(_of_numbers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float)


def dense(name: str, network: Any) -> dict[str, Any]:
    """The scores of a record."""
    settings = settings_of(name)
    channels = registry.architecture(name).channels
    predictor = settings.task.predictor(settings.network, settings.data, CLASSES, channels, network)
    ((prediction, _),) = predictor.predict([record_of(name, 0)])
    return {"scores": summary(prediction["scores"])}


def detections(name: str, network: Any) -> dict[str, Any]:
    """What is found in made-up outputs of the network; of Mask R-CNN, its own masks of a record too."""
    import keras

    from repro.tasks.learners import network_inputs

    settings, record, rng = settings_of(name), record_of(name, 0), np.random.default_rng(1)
    predictor = settings.task.predictor(settings.network, settings.data, CLASSES, 3)
    predictor.load(network)
    batch, model = {key: keras.ops.convert_to_tensor(value[None]) for key, value in record.items()}, predictor.network
    found: dict[str, Any] = {}
    if settings.task.name == "instance":
        kernel = model.get_layer("mask_pred").kernel
        kernel.assign(50 * kernel)  # masks of a fresh network are grey
        masks = np.array(model(network_inputs(model, batch))["masks"])
        found["masks"] = [float(masks.mean()), float(masks.std())]
    outputs = {key: np.array(value) for key, value in model(network_inputs(model, batch)).items()}
    for key in ("grid", "stride32", "stride16", "stride8", "scores", "deltas", "masks"):
        if key in outputs:
            outputs[key] = rng.normal(0.4, 1 if key == "scores" else 0.4, outputs[key].shape).astype("float32")
    if "proposals" in outputs:
        outputs["proposals"] = boxes_in(rng, outputs["proposals"].shape[1], record["valid_size"])[None]
        outputs["proposal_valid"] = np.arange(outputs["proposals"].shape[1])[None] > 0
    tensors = {key: keras.ops.convert_to_tensor(value) for key, value in outputs.items()}
    if "found_boxes" in outputs:
        given = (tensors[key] for key in ("scores", "deltas", "proposals", "proposal_valid"))
        again = model.get_layer("detections")(*given, batch["valid_size"])
        tensors |= {f"found_{key}": value for key, value in again.items()}
    decoded = registry.module_of(name).detect(tensors, batch)
    arrays = {key: np.array(value) for key, value in decoded.items()}
    return found | objects(predictor.prediction(arrays, record, 0))


def objects(found: dict[str, Any]) -> dict[str, Any]:
    """How many were found, the first five, and the boxes of all."""
    return {
        "count": len(found["scores"]), "all": summary(found["boxes"]),
        "boxes": [numbers(box) for box in found["boxes"][:5]], "best": numbers(found["scores"][:5]),
        "classes": [int(kind) for kind in found["classes"][:5]],
        **({"pixels": [int(decode_rle(mask).sum()) for mask in found["masks"][:5]]} if "masks" in found else {}),
    }  # fmt: skip


def regions(name: str, network: Any) -> dict[str, Any]:
    """R-CNN's regions to learn from, what is solved after the network, and what is found by made-up scores."""
    from repro.tasks.regions import RegionRecords, solve

    settings, rng = settings_of(name), np.random.default_rng(1)
    task = type(settings.task)(search={"width": None, "min_side": 8, "workers": 1}, num_proposals=12)
    images = task.records(settings.network, settings.data, Made(), "test")
    images.proposals = [found["boxes"] for found in modules.predictions()]  # near the objects
    shown = RegionRecords(images, 0)
    predictor = task.predictor(settings.network, settings.data, CLASSES, 3)
    predictor.load(network)
    with tempfile.TemporaryDirectory() as folder:
        solved, _ = solve(predictor, images, Path(folder) / "features", lambda fraction, note: None)
    proposals = boxes_in(rng, 12, np.array([40, 52]))
    deltas, scores = 0.3 * rng.normal(size=(12, CLASSES, 4)), rng.normal(size=(12, CLASSES))
    sums = [0.0 if weights is None else float(abs(weights).sum()) for weights in solved["boxes"]]
    return {
        "labels": [int(shown[index]["label"]) for index in range(len(shown))],
        "region": summary(shown[0]["image"]),
        "solved": [
            [*sums],
            *([entry["positives"], entry["negatives"], *entry["objective"]] for entry in solved["stats"]),
        ],
        "softmax": objects(predictor.decode("softmax", proposals, deltas, scores, (40, 52))),
        **objects(predictor.decode("svm", proposals, deltas, scores, (40, 52))),
    }


PAPERS = [f"models.{path.stem}" for path in sorted(Path(PACKAGE, "models").glob("*.py")) if path.stem != "__init__"]
# by group: the names, what computes the values of one, and the module that answers for it
GROUPS: dict[str, tuple[Any, Callable[[str], dict[str, Any]], Callable[[str], str]]] = {
    "architectures": (
        registry.ARCHITECTURES, network_values, lambda name: registry.ARCHITECTURES[name].module.removeprefix("repro."),
    ),
    "papers": (PAPERS, constants_of, lambda name: name),
    "modules": (modules.VALUES, lambda name: modules.VALUES[name](), lambda name: name),
    "loaders": (LOADERS, loader_values, lambda name: LOADERS[name].__module__.removeprefix("repro.")),
}  # fmt: skip


def versions(group: str, name: str) -> dict[str, int]:
    """The versions of what decides the values of an entry."""
    return versions_of(GROUPS[group][2](name), *(task_for(name).modules() if group == "architectures" else ()))


def raised(group: str, name: str, golden: dict[str, Any]) -> bool:
    """Whether a VERSION behind an entry is another than when its values were written."""
    return any(golden["versions"].get(module) != version for module, version in versions(group, name).items())


def problem(group: str, name: str, found: dict[str, Any], golden: dict[str, Any]) -> str:
    """What to do about the values of an entry, "" for nothing."""
    stored = golden[group].get(name)
    if not stored or not found:
        settings = "" if found else "give it settings in SMALL of tests/golden/values.py, then "
        return f"{name} has no golden values: {settings}`{COMMAND}`"
    rtol = 1e-9 if name.startswith("metrics.") else 1e-4
    moved = difference(stored, json.loads(json.dumps(found)), rtol)
    if not moved:
        return ""
    return f"raise VERSION of {GROUPS[group][2](name)} (or mend what you broke), then `{COMMAND}`: {name} {moved}"


def difference(old: Any, new: Any, rtol: float, where: str = "") -> str:
    """Where the first value differs, and how. Of constants and defaults, which come and go, those that stay count."""
    if isinstance(old, dict) and isinstance(new, dict):
        loose = where in ("constants ", "defaults ")
        keys = old.keys() & new.keys() if loose else old.keys() | new.keys()
        for key in sorted(keys):
            if found := difference(old.get(key), new.get(key), TOLERANCES.get(key, rtol), f"{where}{key} "):
                return found
        return ""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return next(filter(None, (difference(*pair, rtol, f"{where}{index} ") for index, pair in pairs)), "")
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (old, new))
    same = math.isclose(old, new, rel_tol=rtol, abs_tol=rtol / 100) if plain else old == new
    return "" if same else f"{where}is {new}, was {old}"


def text(golden: Any, depth: int = 0) -> str:
    """JSON of golden values, three levels deep, with a line for each value of an entry."""
    if not isinstance(golden, dict) or depth == 3:
        return json.dumps(golden, sort_keys=True)
    lines = [f"{' ' * (depth + 1)}{json.dumps(key)}: {text(golden[key], depth + 1)}" for key in sorted(golden)]
    return "{\n" + ",\n".join(lines) + f"\n{' ' * depth}}}"


def main() -> int:
    """Compute all values and write those that moved. Returns 1, and writes nothing, where no VERSION was raised."""
    if sys.argv[1:] != ["--write"]:
        print(f"usage: {COMMAND}")
        return 2
    old = {group: {} for group in (*GROUPS, "versions")} | (json.loads(FILE.read_text()) if FILE.exists() else {})
    new: dict[str, Any] = {group: {} for group in GROUPS} | {"versions": {}}
    refused = []
    for group, (names, values, _) in GROUPS.items():
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                places = {"REPRO_DATA": f"{folder}/data", "REPRO_RESULTS": f"{folder}/results"}
                with mock.patch.dict(os.environ, places):
                    found = json.loads(json.dumps(values(name)))
            kept, moved = old[group].get(name), problem(group, name, found, old)
            if kept and moved and not raised(group, name, old):
                refused.append(moved)
            # values that did not move keep their last digits
            new[group][name] = found if moved or group == "papers" else kept
            new["versions"] |= versions(group, name)
            print(f"{name}: {'new' if moved else 'as before'}", flush=True)
    if refused:
        print("\n".join(refused))
        return 1
    FILE.write_text(text(new) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
