"""Every preset as data."""

from repro.presets import classification, detection, instance, segmentation, speed, yolo
from repro.presets.base import Preset

# in the order they run without a budget
PRESETS: list[Preset] = [
    *speed.DESCRIPTION,
    *classification.PRESETS,
    *segmentation.PRESETS,
    *detection.PRESETS,
    *yolo.PRESETS,
    *instance.PRESETS,
    *speed.PRESETS,
]
