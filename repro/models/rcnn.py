"""R-CNN: Girshick, Donahue, Darrell & Malik, "Rich Feature Hierarchies for Accurate Object Detection and Semantic
Segmentation", CVPR 2014 (arXiv 1311.2524), on VGG-16 (Section 3.3, "O-Net").

Each of about 2000 selective-search proposals is cut out with 16 pixels of context, warped to the network's input, and
sent through the whole network by itself (Figure 1):

    region [N,224,224,3]
    VGG-16: pool5 [N,7,7,512], fc6 [N,4096], fc7 [N,4096]
    fine-tuned as a classifier of K+1 classes (Section 2.3), then
    fc7 -> a linear SVM for each class, with hard negatives (Section 2.3, Appendix B)
    pool5 -> ridge regression of the box for each class (Appendix C)
    greedy non-maximum suppression for each class

134,346,581 parameters with 20 classes. SVMs and regression are solved on the host (`repro.solvers`).
"""

from typing import Any

import keras
import numpy as np

from repro.errors import ReproError
from repro.models import vgg
from repro.ops.losses import softmax_cross_entropy

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# of the warped region's side, around the proposal: 16 pixels of 224 (Appendix A: 16 of 227)
CONTEXT = 16 / 224
POSITIVE_IOU = 0.5  # of a fine-tuning positive (Section 2.3)
POSITIVE_SHARE = 0.25  # 32 of 128 regions in a batch (Section 2.3)
NEGATIVE_IOU = 0.3  # below it, a proposal is a negative of an SVM (Section 2.3)
BOX_IOU = 0.6  # above it, a proposal teaches the box regression (Appendix C)
NMS_IOU = 0.3  # released; the paper speaks of a learned threshold (Section 2.2)

DEVIATIONS = (
    *vgg.DEVIATIONS[:2],
    "VGG-16 (Section 3.3) is the only backbone; most of the paper's tables are AlexNet's",
    "a quarter of the regions shown in fine-tuning are positive, on average over batches, not in each",
    "hard negatives are mined in one pass over the images, without the released two-fold models",
)


def recipe(variant: str, name: str) -> dict[str, Any]:
    """Fine-tuning as Section 2.3: SGD at 1e-3 on batches of 32 positives and 96 backgrounds; the released schedule
    divides the rate by 10 every 20,000 of its 70,000 steps (in epochs of VOC 2007's regions, about as many)."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 128, "learning_rate": 1e-3, "weight_decay": 5e-4,
        "schedule": "step", "drops": [2 / 7, 4 / 7, 6 / 7], "epochs": 16, "augment": {"flip": True},
    }  # fmt: skip


def rcnn(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    frozen_blocks: int = 0,
) -> keras.Model:  # fmt: skip
    """R-CNN's network. Warped regions float32 [N,H,W,C] in 0..255 to {"scores": [N,K+1], background first, "features":
    fc7 [N,4096], "pool5": [N,H/32*W/32*512]}. Raises ReproError when a region is smaller than 32 pixels."""
    if min(input_size) < 32:
        raise ReproError(f"rcnn cannot take {input_size[0]}x{input_size[1]} regions", "give at least 32x32")
    image = keras.Input((*input_size, channels), name="image")
    x = vgg.blocks(vgg.normalise(image, channels), width, depth)["pool5"]
    pool5 = x = keras.layers.Flatten(name="pool5_flat")(x)
    for name in ("fc6", "fc7"):
        units = vgg.channels_at(4096, width)
        x = features = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=name)(x)
        x = keras.layers.Dropout(0.5, name=f"drop{name[-1]}")(x)
    start = keras.initializers.RandomNormal(stddev=0.01)
    x = keras.layers.Dense(num_classes + 1, kernel_initializer=start, name="fc8")(x)
    outputs = {"scores": x, "features": features, "pool5": pool5}
    outputs = {
        name: keras.layers.Activation("linear", dtype="float32", name=f"{name}_out")(value)
        for name, value in outputs.items()
    }
    model = keras.Model(image, outputs, name="rcnn")
    for layer in model.layers:
        if layer.name.startswith(tuple(f"conv{number}_" for number in range(1, frozen_blocks + 1))):
            layer.trainable = False
    return model


def loss(outputs: dict, batch: dict, **options: Any):
    """Softmax cross-entropy of fine-tuning (Section 2.3). `batch["label"]` int [N], 0 = background, k + 1 = class k."""
    return softmax_cross_entropy(outputs["scores"], batch["label"], void=None, **options)


def context_boxes(boxes: np.ndarray) -> np.ndarray:
    """The parts of the image [N,4] that the warped regions of proposals [N,4] show: the proposal fills its region but
    for the share CONTEXT at each side (Appendix A). They may reach outside the image.

    >>> context_boxes(np.array([[0, 0, 192, 192]])).round(4).tolist()  # 16 of 224 pixels at each side
    [[-16.0, -16.0, 208.0, 208.0]]
    """
    margin = CONTEXT / (1 - 2 * CONTEXT) * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
