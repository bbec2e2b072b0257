"""A network as it is used: from batches of records to predictions, image by image, as one compiled program."""

import abc
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from repro import backend
from repro.data.detection import rescale
from repro.data.loader import in_order
from repro.data.masks import encode_rle, paste_mask
from repro.tasks.learners import network_inputs
from repro.tasks.networks import copy_weights, flops, image_shape, parameter_count
from repro.tasks.tiles import kept_size, overlap_tile


class Predictor:
    """What every predictor has: a network, which holds the weights, and the one loop over records."""

    batch_size = 4

    def __init__(self, network: keras.Model) -> None:
        self.network = network

    def load(self, trained: keras.Model) -> None:
        """Take over the weights of the network that was trained."""
        copy_weights(trained, self.network)

    @abc.abstractmethod
    def outputs(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the program gives for a batch of records, as NumPy."""

    @abc.abstractmethod
    def prediction(self, outputs: dict[str, np.ndarray], record: dict[str, np.ndarray], index: int) -> dict[str, Any]:
        """The prediction for one record of a batch."""

    def predict(self, records: Any) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
        """Yield (prediction, record) for every record, in order."""
        for batch, count in in_order(records, min(self.batch_size, len(records))):
            outputs = self.outputs(batch)
            for index in range(count):
                record = {name: values[index] for name, values in batch.items()}
                yield self.prediction(outputs, record, index), record

    def example(self, records: Any) -> tuple[Callable[[Any], Any], Any] | None:
        """The compiled program and one image on the device, to be timed; None where there is no such program."""

    def cost(self) -> dict[str, int]:
        """Parameters and operations of one image."""
        return {"params": parameter_count(self.network), "flops": flops(self.network)}


def to_numpy(outputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Outputs of a program as NumPy arrays."""
    return {name: np.asarray(ops.convert_to_numpy(value)) for name, value in outputs.items()}


class DensePredictor(Predictor):
    """A classifier or segmenter: `scores` of each image, [K] or [h,w,K].

    With a `tile_margin`, or where a network answers for less than it sees, the valid part of each image of a canvas is
    scored by overlapping tiles (see `repro.tasks.tiles`)."""

    tile_batch = 8

    def __init__(self, network: keras.Model, canvas: tuple[int, int], tile_margin: int | None = None) -> None:
        super().__init__(network)
        self.canvas = canvas
        self.kept = _kept(network, self.canvas, tile_margin)
        self.batch_size = 1 if self.kept else 8

    def outputs(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`scores` [B,...] float32; of a tiled image, of its valid part."""
        if not self.kept:
            return {"scores": self._forward(batch["image"])}
        (image,), (valid,) = batch["image"], batch["valid_size"]
        size = tuple(self.network.input_shape[1:3])
        scores = overlap_tile(self._forward, image[: valid[0], : valid[1]], size, self.kept, self.tile_batch)
        return {"scores": scores[None]}

    def prediction(self, outputs: dict[str, np.ndarray], record: dict[str, np.ndarray], index: int) -> dict[str, Any]:
        """`scores` float32, [K] or [h,w,K]."""
        return {"scores": outputs["scores"][index]}

    def _forward(self, images: np.ndarray) -> np.ndarray:
        tensor = ops.cast(ops.convert_to_tensor(images), "float32")
        return np.asarray(ops.convert_to_numpy(backend.forward(self.network, "xla")(tensor)["scores"]), "float32")

    def example(self, records: Any) -> tuple[Callable[[Any], Any], Any]:
        """The network, and uniform noise [1,H,W,C] of its input size."""
        shape = (1, *self.network.input_shape[1:])
        images = np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
        return backend.forward(self.network, "xla"), backend.to_device(images)

    def cost(self) -> dict[str, int]:
        """What all have, and how many tiles cover the canvas of a segmenter."""
        if len(self.network.output["scores"].shape) == 2:
            return super().cost()
        parts = zip(self.canvas, self.kept or self.canvas, strict=True)
        return super().cost() | {"tiles": math.prod(-(-side // part) for side, part in parts)}


def _kept(network: keras.Model, canvas: tuple[int, int], tile_margin: int | None) -> tuple[int, int] | None:
    """(height, width) of what each tile answers for, None where images of a canvas are scored whole."""
    size, answered = tuple(network.input_shape[1:3]), tuple(network.output["scores"].shape[1:-1])
    if tile_margin is None and answered in ((), size) and canvas == size:
        return None
    return kept_size(size, answered, tile_margin or 0)


class Detector(keras.Model):
    """A network and its decoding as one model: a batch to final boxes, and to proposals where it makes them."""

    def __init__(self, network: keras.Model, detect: Callable[..., dict], options: dict[str, Any]) -> None:
        super().__init__(name="detector", autocast=False)  # boxes in bfloat16 would be off by pixels
        self.network, self._detect, self._options = network, detect, options
        self.built = True  # all it has is built, and JAX asks

    def call(self, batch, training=False):
        """`boxes`, `scores`, `classes`, `count` as `repro.ops.nms.class_nms` has them, small `masks` where there are
        any, `proposals` and `proposal_valid` of networks with regions."""
        outputs = self.network(network_inputs(self.network, batch), training=training)
        found = self._detect(outputs, batch, **self._options)
        return found | {key: outputs[key] for key in ("proposals", "proposal_valid") if key in outputs}


class DetectorPredictor(Predictor):
    """A detector: boxes float32 [n,4] in pixels of the original image, scores and classes [n], `proposals` [P,4] of
    networks with regions, and `masks`, n run-length encoded masks of the original image, where the network has them."""

    def __init__(self, network: keras.Model, detect: Callable[..., dict], options: dict[str, Any]) -> None:
        super().__init__(network)
        self.detector = Detector(network, detect, options)

    def outputs(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What `Detector.call` gives, in pixels of the network's input."""
        tensors = {name: ops.convert_to_tensor(values) for name, values in batch.items()}
        return to_numpy(backend.forward(self.detector, "xla")(tensors))

    def prediction(self, outputs: dict[str, np.ndarray], record: dict[str, np.ndarray], index: int) -> dict[str, Any]:
        """What was found, in pixels of the original image; padding is gone."""
        sizes, count = (record["valid_size"], record["original_size"]), int(outputs["count"][index])
        found: dict[str, Any] = {name: outputs[name][index, :count] for name in ("scores", "classes")}
        found["boxes"] = rescale(outputs["boxes"][index, :count], *sizes)
        if "masks" in outputs:
            height, width = map(int, record["original_size"])
            pairs = zip(outputs["masks"][index, :count], found["boxes"], strict=True)
            found["masks"] = [encode_rle(paste_mask(mask, box, (height, width))) for mask, box in pairs]
        if "proposals" in outputs:
            chosen = outputs["proposals"][index][outputs["proposal_valid"][index]]
        elif "proposals" in record:  # selective search's
            chosen = record["proposals"][record["proposal_valid"]]
        else:
            return found
        return found | {"proposals": rescale(chosen, *sizes)}

    def example(self, records: Any) -> tuple[Callable[[Any], Any], Any]:
        """The detector, and the first record."""
        batch = {name: backend.to_device(value[None]) for name, value in records[0].items()}
        return backend.forward(self.detector, "xla"), batch


def noise_batch(network: keras.Model, count: int = 1) -> dict[str, Any]:
    """A detector's batch of uniform noise that fills its canvas, on the device."""
    shape = image_shape(network)
    images = np.random.default_rng(0).uniform(0, 255, (count, *shape)).astype("float32")
    sizes = np.tile(np.asarray(shape[:2], "int32"), (count, 1))
    return {"image": backend.to_device(images), "valid_size": backend.to_device(sizes)}
