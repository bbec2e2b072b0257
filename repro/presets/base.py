"""What a preset is, and what the files of presets share."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from repro.experiments.kind import Kind
from repro.experiments.train import Train

PROFILES = ("smoke", "cpu", "gpu", "paper")
# the optimizer of the suite's own recipes
ADAMW: dict[str, Any] = dict(
    recipe="suite", optimizer="adamw", weight_decay=1e-4, schedule="cosine", warmup=0.05, clip_norm=1.0
)
TITLES = {
    "vgg16": "VGG-16", "googlenet": "GoogLeNet", "resnet101": "ResNet-101", "extraction": "YOLO v1's classifier",
    "darknet19": "Darknet-19", "darknet53": "Darknet-53",
    "fcn32s": "FCN-32s", "fcn16s": "FCN-16s", "fcn8s": "FCN-8s", "fcn_googlenet": "FCN-GoogLeNet", "segnet": "SegNet",
    "unet": "U-Net",
    "rcnn": "R-CNN", "fast_rcnn": "Fast R-CNN", "faster_rcnn": "Faster R-CNN",
    "faster_rcnn_resnet101": "Faster R-CNN on ResNet-101",
    "yolo_v1": "YOLO v1", "fast_yolo": "Fast YOLO", "yolo_v2": "YOLO v2", "yolo_v3": "YOLO v3",
    "mask_rcnn": "Mask R-CNN on conv4", "mask_rcnn_fpn": "Mask R-CNN on FPN",
}  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """An experiment by name. `configs` by profile (absent: not part of it); `value` orders work under a budget;
    `seconds` is what one seed costs by profile (smoke and cpu: on 2 CPU cores; gpu and paper: on one GPU) until this
    machine has run it."""

    name: str
    about: str
    configs: Mapping[str, Kind]
    value: int
    seconds: dict[str, float]
    seeds: int = 1


def both(value: Any) -> dict[str, Any]:
    """The same for a machine with a GPU and for one without: what trains nothing runs whole on either."""
    return {"cpu": value, "gpu": value}


def family(
    prefix: str,
    about: str,
    profile: str,
    kinds: Mapping[str, Train],
    seconds: float | Mapping[str, float],
    value: int,
    *,
    papers: Mapping[str, Train] = MappingProxyType({}),
    paper_seconds: float | Mapping[str, float] = 0,
    dash: str = "-",
    seeds: int = 1,
) -> list[Preset]:
    """The networks on one data set, each called after both. `kinds` and `papers` (with the paper's own data and recipe)
    are by network, seconds too where they differ; `dash`: what stands for the underscore of a network's name."""

    def of(costs: float | Mapping[str, float], name: str) -> float:
        return costs[name] if isinstance(costs, Mapping) else costs

    presets = []
    for name, kind in kinds.items():
        configs, costs = {profile: kind}, {profile: of(seconds, name)}
        if name in papers:
            configs["paper"], costs["paper"] = papers[name], of(paper_seconds, name)
        title = f"{prefix}-{name.replace('_', dash)}"
        presets.append(Preset(title, f"{TITLES[name]} {about}", configs, value, costs, seeds))
    return presets
