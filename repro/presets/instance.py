"""Instance segmentation presets: Mask R-CNN on conv4 (C4) and on a feature pyramid (FPN).

shapes-mask-rcnn*                          smoke  generated pictures, narrow networks: about a minute each on 2 cores
penn-narrow-*, nuclei-narrow-*,            cpu    an eighth of the width, half the depth, 256x256, from Tiny-ImageNet:
coco-narrow-*                                     minutes a seed on 2 cores
penn-narrow-mask-rcnn-fpn-*                cpu    the same with RoI pooling, or no masks
shapes-mask-rcnn-fpn-softmax               cpu    a softmax over classes, for which Penn-Fudan has too few
penn-*, nuclei-*, coco2017-mask-rcnn*      gpu    full width, of COCO 10,000 images: up to two hours a seed on one GPU
coco2017-mask-rcnn*                        paper  the paper's recipe: days on one GPU
shapes-gallery                             smoke  the same pictures through FCN-8s, U-Net, Faster R-CNN, YOLO v3 and
                                                  both forms of Mask R-CNN
mask-overhead                              cpu, gpu    the mask branch's share of the time, full size
"""

from collections.abc import Mapping
from typing import Any

from repro.experiments.gallery import Gallery
from repro.experiments.mask_overhead import MaskOverhead
from repro.experiments.train import Train
from repro.presets.base import ADAMW, Preset, both, family
from repro.presets.detection import SHAPES
from repro.records.settings import Data, Network
from repro.tasks.instance import Instance

_FORMS = ("mask_rcnn", "mask_rcnn_fpn")
PENN, NUCLEI = Data(name="penn_fudan"), Data(name="nuclei")
COCO = Data(name="coco2017", test="val")
# what a machine without an accelerator, and one GPU in an hour or two, can see of it
COCO_NARROW = Data(name="coco2017", test="val", train_limit=1000, test_limit=500)
COCO_GPU = Data(name="coco2017", test="val", train_limit=10_000, test_limit=5000)
_FREE = {"frozen_stages": 0, "frozen_bn": False}  # from random weights nothing is worth keeping


def _trained(
    networks: Mapping[str, dict[str, Any]], data: Data, recipe: dict[str, Any], **fields: Any
) -> dict[str, Train]:
    return {
        name: Train(network=Network(name=name, **network), task=Instance(), data=data, **recipe, **fields)
        for name, network in networks.items()
    }


def _networks(
    side: int, depth: float, max_boxes: int, conv4: dict[str, Any], pyramid: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Settings of both forms at an eighth of the width; what is the same for them is in neither's options."""
    shared = {"width": 1 / 8, "depth": depth, "input_size": (side, side)}
    options = {**_FREE, "max_boxes": max_boxes}
    return {
        "mask_rcnn": {**shared, "options": {**options, **conv4}},
        "mask_rcnn_fpn": {**shared, "options": {**options, **pyramid}},
    }


def _full(max_boxes: int) -> dict[str, dict[str, Any]]:
    """Whole networks for data with that many objects in an image."""
    return {name: {"options": {"max_boxes": max_boxes, "min_size": 0}} for name in _FORMS}


_SMALL_C4 = {"anchor_scales": (2, 4, 8), "min_size": 8, "before_nms": (300, 300), "after_nms": (100, 50), "rois": 16,
             "rpn_sample": 64, "max_detections": 20}  # fmt: skip
_SMALL_FPN = {"before_nms": (200, 100), "after_nms": (100, 50), "rois": 32, "rpn_sample": 64, "max_detections": 20}
_NARROW_C4 = {"anchor_scales": (1, 2, 4, 8), "min_size": 4, "before_nms": (1000, 1000), "after_nms": (300, 200),
              "rois": 64, "max_detections": 100}  # fmt: skip
_NARROW_FPN = {"before_nms": (500, 500), "after_nms": (300, 200), "rois": 64, "max_detections": 100}
# nuclei are many and small: anchors of half the size, regions from finer maps
_NUCLEI_C4 = _NARROW_C4 | {"anchor_scales": (0.5, 1, 2, 4), "min_size": 2}
_NUCLEI_FPN = _NARROW_FPN | {"anchor_scale": 4.0, "canonical_size": 112.0}

_SMALL = _networks(96, 0.1, 8, _SMALL_C4, _SMALL_FPN)
_SMALL["mask_rcnn"]["input_size"] = (192, 192)  # at 96x96 conv4 has 6x6 positions
_SMOKE = dict(ADAMW, learning_rate=2e-3, augment={"flip": True}, val_every=100, epochs=10, batch_size=8)
_NARROW = dict(
    ADAMW, learning_rate=2e-3, augment={"flip": True}, val_every=100, batch_size=2,
    init="tiny-imagenet-narrow-resnet101",
)  # fmt: skip
_TUNED: dict[str, Any] = dict(
    recipe="suite", optimizer="sgd", learning_rate=5e-3, weight_decay=1e-4, schedule="cosine", warmup=0.05,
    clip_norm=10.0, augment={"flip": True}, val_every=5, batch_size=4, init="imagenet",
)  # fmt: skip
# as `recipe` of the model's file gives it
_PAPER: dict[str, Any] = dict(
    recipe="paper", optimizer="sgd", momentum=0.9, learning_rate=0.02, weight_decay=1e-4, schedule="step",
    drops=(0.75,), epochs=22, batch_size=16, augment={"flip": True}, val_every=2, init="imagenet",
)  # fmt: skip
_FPN_NARROW = _networks(256, 0.5, 64, _NARROW_C4, _NARROW_FPN)["mask_rcnn_fpn"]


def _switched(network: dict[str, Any], switch: dict[str, Any]) -> Network:
    return Network(name="mask_rcnn_fpn", **{**network, "options": {**network["options"], **switch}})


def _ablation(switch: dict[str, Any], name: str, about: str) -> Preset:
    """Mask R-CNN on FPN as `penn-narrow-mask-rcnn-fpn`, but for one switch."""
    network = _switched(_FPN_NARROW, switch)
    kind = Train(network=network, task=Instance(), data=PENN, epochs=16, label=about, **_NARROW)
    title = f"Mask R-CNN on FPN, {about}, on Penn-Fudan, narrow"
    return Preset(f"penn-narrow-mask-rcnn-fpn-{name}", title, {"cpu": kind}, 21, {"cpu": 240}, seeds=3)


PRESETS = (
    *family("shapes", "on generated pictures, narrow", "smoke", _trained(_SMALL, SHAPES, _SMOKE), 60, 53),
    *family(
        "penn-narrow", "on Penn-Fudan, an eighth of the width, half the depth", "cpu",
        _trained(_networks(256, 0.5, 64, _NARROW_C4, _NARROW_FPN), PENN, _NARROW, epochs=16), 240, 22, seeds=3,
    ),
    *family(
        "nuclei-narrow", "on nuclei, an eighth of the width, half the depth", "cpu",
        _trained(_networks(256, 0.5, 384, _NUCLEI_C4, _NUCLEI_FPN), NUCLEI, _NARROW, epochs=4), 300, 22, seeds=3,
    ),
    *family(
        "coco-narrow", "on COCO 2017, an eighth of the width, half the depth", "cpu",
        _trained(_networks(256, 0.5, 64, _NARROW_C4, _NARROW_FPN), COCO_NARROW, _NARROW, epochs=16), 2000, 22, seeds=3,
    ),
    _ablation({"region_layer": "pool"}, "pool", "RoI pooling"),
    _ablation({"mask_branch": False}, "boxes", "without masks"),
    Preset(
        "shapes-mask-rcnn-fpn-softmax", "Mask R-CNN on FPN, softmax over classes, on generated pictures",
        {"cpu": Train(
            network=_switched(_SMALL["mask_rcnn_fpn"], {"mask_scores": "softmax"}), task=Instance(), data=SHAPES,
            label="softmax over classes", loss_options={"mask_scores": "softmax"}, **_SMOKE,
        )},
        21, {"cpu": 60}, seeds=3,
    ),
    *family("penn", "on Penn-Fudan", "gpu", _trained(_full(64), PENN, _TUNED, epochs=30), 900, 60),
    *family("nuclei", "on nuclei", "gpu", _trained(_full(384), NUCLEI, _TUNED, epochs=20), 3000, 58),
    *family(
        "coco2017", "on COCO 2017", "gpu", _trained(_full(128), COCO_GPU, _TUNED, epochs=4), 7200, 57,
        papers=_trained(_full(128), COCO, _PAPER), paper_seconds=400_000,
    ),
    Preset(
        "mask-overhead", "Mask R-CNN with and without its mask branch, image to final boxes and masks",
        {
            "smoke": MaskOverhead(
                networks=tuple(Network(name=name, **given) for name, given in _SMALL.items()),
                warmup=3, repetitions=10, seconds=4,
            ),
            **both(MaskOverhead(networks=tuple(Network(name=name) for name in _FORMS))),
        },
        51, {"smoke": 40, **both(400)},
    ),
    Preset(
        "shapes-gallery", "the same pictures through one network of each generation",
        {"smoke": Gallery(
            data=SHAPES,
            members={
                f"shapes-{name.replace('_', '-')}": name
                for name in ("fcn8s", "unet", "faster_rcnn", "yolo_v3", *_FORMS)
            },
        )},
        50, {"smoke": 40},
    ),
)  # fmt: skip
