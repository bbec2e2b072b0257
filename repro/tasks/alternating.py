"""Faster R-CNN by the four steps of alternating training: Ren et al., Section 3.2, "4-Step Alternating Training"."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import msgspec
import numpy as np

from repro import backend
from repro.data.detection import WithProposals
from repro.models import fast_rcnn, faster_rcnn
from repro.tasks.base import Phase, Training
from repro.tasks.learners import DetectorLearner, compiled
from repro.tasks.networks import build, copy_weights
from repro.tasks.predictors import DetectorPredictor

# how many proposals go into and come out of non-maximum suppression, in training and at test
_TRAINING_COUNTS = {"before_nms": (12000, 6000), "after_nms": (2000, 300)}
_HEAD = ("fc6", "fc7", "cls_score", "bbox_pred")


def alternate(
    settings: Training,
    learner: DetectorLearner,
    records: Any,
    seed: int,
    steps: int,
    num_classes: int,
    *,
    names: Sequence[str],
    augmentation: Callable[[Training, int], Any],
    max_boxes: int,
) -> Iterator[Phase]:
    """The four steps, each for `steps` steps, from the weights of the learner's network, which in the end holds the
    shared layers, the RPN and the detector.

    1. The RPN, with the backbone. 2. Fast R-CNN on the RPN's proposals, with a backbone of its own, from the same
    start. 3. The RPN anew on that backbone, which is now fixed. 4. Fast R-CNN's own layers on the new proposals."""
    whole, options = learner.network, settings.network.options
    channels = whole.input["image"].shape[-1]
    given = _weights(whole)
    for name in _HEAD:  # these learn in networks of their own
        whole.get_layer(name).trainable = False

    def phase(number: int, network: keras.Model, loss: Any, shown: Any) -> Phase:
        augment = augmentation(settings, seed)
        made = DetectorLearner(network, loss, settings.loss_options, augment, batch_size=settings.batch_size)
        order = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        return Phase(names[number - 1], compiled(made, settings, steps, shown[0]), shown, order)

    def proposals() -> WithProposals:
        many = {name: (options.get(name, default)[0],) * 2 for name, default in _TRAINING_COUNTS.items()}
        proposing = msgspec.structs.replace(settings.network, options=options | many)
        predictor = DetectorPredictor(build(proposing, num_classes, channels), fast_rcnn.detect, {})
        copy_weights(whole, predictor.network)
        found = [prediction["proposals"] for prediction, _ in predictor.predict(records)]
        return WithProposals(records, found, many["after_nms"][0])

    def detector(frozen_blocks: int) -> keras.Model:
        chosen = {
            "proposals": options.get("after_nms", _TRAINING_COUNTS["after_nms"])[0],
            "max_boxes": options.get("max_boxes", max_boxes),
            "rois": options.get("rois", 128),
            "frozen_blocks": frozen_blocks,
        }
        return build(
            msgspec.structs.replace(settings.network, name="fast_rcnn", options=chosen), num_classes, channels, "train"
        )

    yield phase(1, whole, _rpn_loss, records)

    shown = proposals()
    backend.set_seed(seed)
    second = detector(options.get("frozen_blocks", 2))
    _assign(second, given)
    yield phase(2, second, fast_rcnn.loss, shown)

    _assign(whole, _weights(second))
    fast_rcnn.freeze(whole, 5)
    yield phase(3, whole, _rpn_loss, records)

    shown = proposals()
    fourth = detector(5)
    _assign(fourth, _weights(second))
    yield phase(4, fourth, fast_rcnn.loss, shown)
    _assign(whole, _weights(fourth))


def _rpn_loss(outputs: dict, batch: dict, **options: Any) -> Any:
    return faster_rcnn.rpn_loss(outputs, **options)


def _weights(network: keras.Model) -> dict[str, list]:
    return {layer.name: layer.get_weights() for layer in network.layers if layer.weights}


def _assign(network: keras.Model, weights: dict[str, list]) -> None:
    """Give the layers that another network has too its weights."""
    for layer in network.layers:
        if layer.weights and layer.name in weights:
            layer.set_weights(weights[layer.name])
