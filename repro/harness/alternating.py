"""Faster R-CNN by the four steps of alternating training: Ren et al., Section 3.2, "4-Step Alternating Training"."""

from collections.abc import Callable
from typing import Any

import keras
import msgspec

from repro import backend
from repro.data.detection import WithProposals
from repro.errors import ReproError
from repro.harness.config import TrainDetector
from repro.harness.detect import (
    MAX_BOXES,
    Detector,
    DetectorLearner,
    build,
    compiled_learner,
    copy_weights,
    predictions_of,
)
from repro.harness.run import Run, checkpoint_path
from repro.harness.train import fit
from repro.models import fast_rcnn, faster_rcnn

STEPS = 4
# how many proposals go into and come out of non-maximum suppression, in training and at test
_TRAINING_COUNTS = {"before_nms": (12000, 6000), "after_nms": (2000, 300)}
Progress = Callable[[float, str], None]


def alternate(
    config: TrainDetector, start: keras.Model, run: Run, seed: int, names: tuple[str, ...], records: Any, channels: int,
    steps: int, report: Progress,
) -> tuple[keras.Model, dict[str, list[float]]]:  # fmt: skip
    """Train the four steps from the weights of `start`, each for `steps` steps. Returns the training network that holds
    the shared layers, the RPN and the detector, and the history of all steps, one after another.

    1. The RPN, with the backbone. 2. Fast R-CNN on the RPN's proposals, with a backbone of its own, from the same
    start. 3. The RPN anew on that backbone, which is now fixed. 4. Fast R-CNN's own layers on the new proposals. Steps
    have checkpoints of their own. Raises ReproError for a network other than faster_rcnn on VGG-16."""
    if config.network.name != "faster_rcnn":
        raise ReproError(f"{config.network.name} cannot train in alternation", 'use faster_rcnn, or phases "joint"')
    history: dict[str, list[float]] = {}
    whole, given, options = start, _weights(start), config.network.options
    for name in ("fc6", "fc7", "cls_score", "bbox_pred"):  # these learn in networks of their own
        whole.get_layer(name).trainable = False

    def step(number: int, learner: DetectorLearner, shown: Any) -> None:
        found = fit(
            learner, config, run, seed + 1000 * number, shown, dict, steps,
            lambda at, note: report((number - 1 + at) / STEPS, f"step {number} of {STEPS}, {note}"),
        )  # fmt: skip
        for key, values in found.items():
            offset = history.get("epoch", [0.0])[-1] if key in ("epoch", "val_epoch") else 0.0
            history.setdefault(key, []).extend(value + offset for value in values)

    def proposals() -> WithProposals:
        many = {name: (options.get(name, default)[0],) * 2 for name, default in _TRAINING_COUNTS.items()}
        network = build(msgspec.structs.replace(config.network, options=options | many), len(names), channels, "infer")
        copy_weights(whole, network)
        found = [boxes for _, boxes in predictions_of(Detector(network, fast_rcnn.detect, {}), records)]
        return WithProposals(records, found, many["after_nms"][0])

    def detector(frozen_blocks: int) -> keras.Model:
        chosen = {
            "proposals": options.get("after_nms", _TRAINING_COUNTS["after_nms"])[0],
            "max_boxes": options.get("max_boxes", MAX_BOXES),
            "rois": options.get("rois", 128),
            "frozen_blocks": frozen_blocks,
        }
        network = msgspec.structs.replace(config.network, name="fast_rcnn", options=chosen)
        return build(network, len(names), channels, "train")

    step(1, compiled_learner(config, whole, _rpn_loss, seed, steps, records), records)

    shown = proposals()
    backend.set_seed(seed)
    second = detector(options.get("frozen_blocks", 2))
    _assign(second, given)
    step(2, compiled_learner(config, second, fast_rcnn.loss, seed, steps, shown), shown)

    _assign(whole, _weights(second))
    fast_rcnn.freeze(whole, 5)
    step(3, compiled_learner(config, whole, _rpn_loss, seed, steps, records), records)

    shown = proposals()
    fourth = detector(5)
    _assign(fourth, _weights(second))
    step(4, compiled_learner(config, fourth, fast_rcnn.loss, seed, steps, shown), shown)
    _assign(whole, _weights(fourth))
    return whole, history


def forget(run: Run, seed: int) -> None:
    """Delete the checkpoints of the four steps."""
    for number in range(1, STEPS + 1):
        checkpoint_path(run.job, seed + 1000 * number).unlink(missing_ok=True)


def _rpn_loss(outputs: dict, batch: dict, **options: Any) -> Any:
    return faster_rcnn.rpn_loss(outputs, **options)


def _weights(network: keras.Model) -> dict[str, list]:
    return {layer.name: layer.get_weights() for layer in network.layers if layer.weights}


def _assign(network: keras.Model, weights: dict[str, list]) -> None:
    """Give the layers that another network has too its weights."""
    for layer in network.layers:
        if layer.weights and layer.name in weights:
            layer.set_weights(weights[layer.name])
