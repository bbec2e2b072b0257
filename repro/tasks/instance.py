"""Finding objects as boxes and masks. The network gives small masks relative to their boxes; they are pasted into the
original image on the host, and scored there."""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np

from repro import registry
from repro.data.base import Info
from repro.data.masks import decode_rle
from repro.drawing.overlays import draw_instances
from repro.files import sha256_of, write_lines
from repro.metrics.instance import instance_protocol
from repro.records.result import Artifact
from repro.records.run import Run
from repro.records.samples import sample_indices
from repro.records.settings import Data, Network
from repro.tasks.base import Evaluator, Training
from repro.tasks.detection import LEAST_SCORE, Boxes, Detection, chosen_objects

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


class Masks(Boxes):
    """Average precisions of boxes and masks."""

    def samples(self, run: Run, predictor: Any, records: Any) -> dict[str, Artifact]:
        """What detectors keep, and the instances of the same test images, a line of JSON each; none without masks."""
        kept = super().samples(run, predictor, records)
        if "masks" not in self.predictions[0]:
            return kept
        lines = []
        for index in sample_indices(len(self.predictions)):
            found = self.predictions[index]
            entry = chosen_objects(found, np.flatnonzero(found["scores"] >= LEAST_SCORE))
            lines.append({name: entry[name] for name in ("masks", "scores", "classes")})
        path = run.artifact("instances.jsonl")
        write_lines(path, lines)
        return kept | {"instances": Artifact(file=path.name, sha256=sha256_of(path))}


class Instance(Detection, tag="instance", frozen=True):
    """As `Detection`. decoding: options of the network for its final boxes (`score_threshold`, `nms_threshold`,
    `max_detections`)."""

    TABLE: ClassVar[str] = "instance"
    CURVE: ClassVar[tuple[str, ...]] = ("map", "mask_ap")
    LATENCY: ClassVar[str] = (
        "one image to final boxes and their small masks as one program, XLA, batch 1; without pasting"
    )

    def _fitting(self, max_boxes: int) -> tuple[str, Any]:
        from repro.data.instance import fitting

        return fitting(max_boxes)

    def augmentation(self, settings: Training, seed: int) -> Any:
        """Mirrors masks too."""
        from repro.data.instance import MirrorInstances

        return MirrorInstances(seed) if settings.augment.get("flip") else None

    def predictor(self, network: Network, data: Data, num_classes: int, channels: int, trained: Any = None) -> Any:
        """The network with its final boxes and masks, which are its own."""
        from repro.tasks.networks import build
        from repro.tasks.predictors import DetectorPredictor

        own = msgspec.structs.replace(network, options=network.options | self.decoding)
        model = build(own, num_classes, channels)
        return DetectorPredictor(model, registry.module_of(network.name).detect, {})

    def evaluator(self, dataset: Any, split: str, count: int, curve: bool = False) -> Evaluator:
        """Average precisions of boxes and masks, `Masks`."""
        return Masks(dataset, split, () if curve else self.recall_counts, masks=True)

    def protocol(self, network: Network, data: Data, info: Info) -> dict[str, Any]:
        """As of boxes, with how masks are made and scored."""
        words = super().protocol(network, data, info) | instance_protocol()
        words["inference"] = words["inference"].replace("boxes mapped", "boxes and masks mapped")
        words["detections"] += "; masks cut at 0.5"
        return words

    def _thresholds(self, network: Network) -> dict[str, Any]:
        from repro.models.mask_rcnn import DETECTION

        return {name: self.decoding.get(name, network.options.get(name, value)) for name, value in DETECTION.items()}

    def _drawn(self, image: np.ndarray, answer: dict[str, Any], chosen: np.ndarray, names: Sequence[str]) -> np.ndarray:
        if "masks" not in answer:
            return super()._drawn(image, answer, chosen, names)
        masks = np.array([decode_rle(answer["masks"][k]) for k in chosen], bool).reshape(-1, *image.shape[:2])
        return draw_instances(image, masks, answer["classes"][chosen], names, scores=answer["scores"][chosen])
