"""The YOLO line: detection with jittered images, and images of changing size."""

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from repro.errors import ReproError
from repro.records.settings import Network
from repro.tasks.base import Training, canvas_of
from repro.tasks.detection import Detection

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
STRIDE = 32  # pixels of the coarsest cell, which every size is a multiple of
# the others end in fully connected layers
ANY_SIZE = ("yolo_v2", "yolo_v3")
_STILL: dict[str, Any] = {"scale": 0.0, "shift": 0.0, "saturation": 1.0, "exposure": 1.0}


class Yolo(Detection, tag="yolo", frozen=True):
    """As `Detection`. sizes: sides of the square images that training changes between every `size_steps` steps (YOLO
    v2, Section 2); () is one size."""

    sizes: tuple[int, ...] = ()
    size_steps: int = 10

    def check(self, settings: Training) -> None:
        """Raise ReproError for sizes that the network cannot take, and for an unknown augmentation."""
        super().check(settings)
        name, canvas = settings.network.name, canvas_of(settings.network, settings.data)
        unknown = sorted(set(settings.augment) - {"flip", "hue", *_STILL})
        if unknown:
            raise ReproError(f"augmentation: there is no {unknown[0]}", f"known: flip, hue, {', '.join(_STILL)}")
        if not self.sizes:
            return
        if name not in ANY_SIZE:
            raise ReproError(f"{name} takes images of one size", f"leave sizes out, or use {' or '.join(ANY_SIZE)}")
        if self.size_steps < 1:
            raise ReproError(f"size_steps {self.size_steps} is impossible", "give at least 1 step")
        if any(side < STRIDE or side % STRIDE for side in self.sizes):
            raise ReproError(f"sizes {', '.join(map(str, self.sizes))} are impossible", f"give multiples of {STRIDE}")
        if canvas[0] != canvas[1]:
            raise ReproError(
                f"images on a canvas of {canvas[0]}x{canvas[1]} cannot become square", "give a square size"
            )

    def augmentation(self, settings: Training, seed: int) -> Any:
        """`Mirror` where `augment` names nothing but flip, else `Jitter` with its options; images whose size changes
        need one that at least resizes."""
        from repro.data.jitter import Jitter

        if not set(settings.augment) - {"flip"}:
            return Jitter(seed, **_STILL, **settings.augment) if self.sizes else super().augmentation(settings, seed)
        return Jitter(seed, **settings.augment)

    def trained(self, network: Network, seed: int) -> tuple[Network, Callable[..., Any]]:
        """Where the size of images changes, the network leaves it open."""
        if not self.sizes:
            return super().trained(network, seed)
        from repro.tasks.learners import MultiScaleLearner

        network = msgspec.structs.replace(network, options=network.options | {"multi_scale": True})
        sizes: dict[str, Any] = {"seed": seed, "sizes": self.sizes, "size_steps": self.size_steps}
        return network, functools.partial(MultiScaleLearner, **sizes)
