"""The architectures of the suite: name, paper, task, and the module whose function of that name builds it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from repro.errors import ReproError, unknown_name

Task = Literal["classification", "segmentation", "detection", "instance"]


@dataclass(frozen=True)
class Architecture:
    """One architecture. `file`: the paper's, in `repro/models`; its function called like the architecture builds it.
    `input_size` is (height, width); `num_classes` and `variants[0]` are its defaults. `auxiliary`: it has outputs that
    only training needs (`heads="train"`). `backbone`: the classifier whose layers it shares by name, whose weights it
    can start from."""

    name: str
    paper: str
    task: Task
    file: str
    input_size: tuple[int, int]
    num_classes: int
    channels: int = 3
    variants: tuple[str, ...] = ("paper",)
    auxiliary: bool = False
    backbone: str = ""

    @property
    def module(self) -> str:
        """The module of the paper's file."""
        return f"repro.models.{self.file}"


_BOTH = ("paper", "released")
_TABLE = (
    Architecture("vgg16", "vgg16", "classification", "vgg", (224, 224), 1000, backbone="vgg16"),
    Architecture("googlenet", "googlenet", "classification", "googlenet", (224, 224), 1000, auxiliary=True,
                 backbone="googlenet"),
    Architecture("resnet101", "resnet101", "classification", "resnet", (224, 224), 1000, backbone="resnet101"),
    Architecture("darknet19", "yolov2", "classification", "darknet", (224, 224), 1000, backbone="darknet19"),
    Architecture("darknet53", "yolov3", "classification", "darknet", (256, 256), 1000, backbone="darknet53"),
    Architecture("extraction", "yolov1", "classification", "yolo_v1", (224, 224), 1000, variants=_BOTH,
                 backbone="extraction"),
    Architecture("fcn32s", "fcn", "segmentation", "fcn", (500, 500), 21, variants=_BOTH, backbone="vgg16"),
    Architecture("fcn16s", "fcn", "segmentation", "fcn", (500, 500), 21, variants=_BOTH, backbone="vgg16"),
    Architecture("fcn8s", "fcn", "segmentation", "fcn", (500, 500), 21, variants=_BOTH, backbone="vgg16"),
    Architecture("fcn_googlenet", "fcn", "segmentation", "fcn", (500, 500), 21, backbone="googlenet"),
    Architecture("segnet", "segnet", "segmentation", "segnet", (360, 480), 11, variants=_BOTH, backbone="vgg16"),
    Architecture("unet", "unet", "segmentation", "unet", (572, 572), 2, channels=1),
    Architecture("rcnn", "rcnn", "detection", "rcnn", (224, 224), 20, backbone="vgg16"),
    Architecture("fast_rcnn", "fast_rcnn", "detection", "fast_rcnn", (600, 1000), 20, auxiliary=True, backbone="vgg16"),
    Architecture("faster_rcnn", "faster_rcnn", "detection", "faster_rcnn", (600, 1000), 20, auxiliary=True,
                 backbone="vgg16"),
    Architecture("faster_rcnn_resnet101", "faster_rcnn", "detection", "faster_rcnn", (600, 1000), 20, auxiliary=True,
                 backbone="resnet101"),
    Architecture("yolo_v1", "yolov1", "detection", "yolo_v1", (448, 448), 20, backbone="extraction"),
    Architecture("fast_yolo", "yolov1", "detection", "yolo_v1", (448, 448), 20),
    Architecture("yolo_v2", "yolov2", "detection", "yolo_v2", (416, 416), 20, variants=_BOTH, backbone="darknet19"),
    Architecture("yolo_v3", "yolov3", "detection", "yolo_v3", (416, 416), 80, backbone="darknet53"),
    Architecture("mask_rcnn", "mask_rcnn", "instance", "mask_rcnn", (1024, 1024), 80, auxiliary=True,
                 backbone="resnet101"),
    Architecture("mask_rcnn_fpn", "mask_rcnn", "instance", "mask_rcnn", (1024, 1024), 80, auxiliary=True,
                 backbone="resnet101"),
)  # fmt: skip
ARCHITECTURES: dict[str, Architecture] = {entry.name: entry for entry in _TABLE}


def architecture(name: str) -> Architecture:
    """Look an architecture up. Raises ReproError with the nearest names when there is none."""
    if name not in ARCHITECTURES:
        raise unknown_name("model", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def module_of(name: str) -> Any:
    """The paper file that holds an architecture (imports Keras)."""
    return importlib.import_module(architecture(name).module)


def check(name: str, variant: str | None, width: float, depth: float) -> None:
    """Raises ReproError for a variant, width or depth that no network of this name can have."""
    entry = architecture(name)
    if variant is not None and variant not in entry.variants:
        raise unknown_name(f"variant of {name}", variant, entry.variants)
    for label, value in (("width", width), ("depth", depth)):
        if not 0 < value <= 1:
            raise ReproError(f"{label} {value:g} of {name} is impossible", f"give a {label} above 0 and up to 1")


def build(
    name: str, *, num_classes: int | None = None, input_size: tuple[int, int] | None = None,
    channels: int | None = None, variant: str | None = None, width: float = 1.0, depth: float = 1.0,
    heads: str = "infer", **options: Any,
) -> Any:  # fmt: skip
    """Build a network as a `keras.Model` that maps float32 images [B,H,W,C] in 0..255 to raw scores.

    None means the architecture's default. `heads="train"` adds the outputs that only training needs, where the
    architecture has any. Raises ReproError for an impossible setting."""
    entry = architecture(name)
    check(name, variant, width, depth)
    if heads not in ("infer", "train"):
        raise unknown_name("choice of heads", heads, ("infer", "train"))
    if entry.auxiliary:
        options["heads"] = heads
    function: Callable[..., Any] = getattr(module_of(name), name)
    classes = entry.num_classes if num_classes is None else num_classes
    image_channels = entry.channels if channels is None else channels
    for label, value in (("classes", classes), ("channels", image_channels)):
        if value < 1:
            raise ReproError(f"{value} {label} for {name} are impossible", f"give at least 1 of --{label}")
    options |= {"num_classes": classes, "input_size": input_size or entry.input_size, "channels": image_channels}
    return function(variant=variant or entry.variants[0], width=width, depth=depth, **options)
