"""Non-maximum suppression beside other libraries': of region proposals, of a detector's last step, of YOLO's."""

import itertools
from typing import Any, ClassVar

import numpy as np

from repro import backend
from repro.experiments.operations import BY_HAND, TIMED, Answer, Comparison, Operations, our_nms
from repro.records.run import Progress

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_ONE_BY_ONE = (
    "it looks at one box after another, each against those kept so far, and stops when there are enough; ours computes "
    "the overlaps of whole tiles of boxes in fixed shapes, so that it can stand inside a detector's program"
)
_BELOW_FIRST = (
    "it drops what is below the score first and then looks at one box after another; ours, in fixed shapes, sorts all "
    "scores of every class (half its time on two cores) and computes whole tiles of overlaps, however few are left"
)
_IN_TURN = ("tf_image", "tf_image_loop", "keras_cv")  # peers that look at one box after another


class NMSSpeed(Operations, tag="nms_speed", frozen=True):
    """Time non-maximum suppression."""

    SUBJECT: ClassVar[str] = "nms"
    TITLE: ClassVar[str] = "Non-maximum suppression"
    # Faster R-CNN's test.prototxt and config.py: boxes before and after the NMS of training and of testing; Fast
    # R-CNN's test_net: RoIs, classes, detections; YOLO v2: grid, classes, detections
    SIZES: ClassVar[dict[str, Any]] = {
        "image": (600, 1000),
        "objects": 8,
        "rpn_train": (12000, 2000),
        "rpn_test": (6000, 300),
        "detector": (300, 20, 100),
        "yolo": (13, 20, 100),
    }
    WHY: ClassVar[dict[tuple[str, str], str]] = {
        ("rpn", "tf_image"): _ONE_BY_ONE,
        **dict.fromkeys(itertools.product(("detector", "yolo"), _IN_TURN), _BELOW_FIRST),
        **{(case, "torchvision"): BY_HAND for case in ("rpn", "detector", "yolo")},
    }

    def compare(self, found: Comparison, sizes: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """RPN's proposals in training and testing, a detector's last step, and YOLO's."""
        from repro.peers import nms as peers

        rng, image = np.random.default_rng(0), tuple(sizes["image"])
        objects = peers.some_objects(sizes["objects"], image, rng)
        boxes, scores = peers.region_proposals(objects, image, rng)
        for number, (case, title) in enumerate((("rpn_train", "RPN, training"), ("rpn_test", "RPN, test"))):
            before, keep = sizes[case]
            inputs = boxes[:before], scores[:before], 0.7, keep
            text = f"{title}: {len(inputs[0])} boxes, at most {keep}, IoU 0.7"
            found.compare(case, text, our_nms(*inputs), peers.LIST_PEERS, inputs, same_boxes)
            progress(0.25 * (number + 1), title)
        regions, classes, keep = sizes["detector"]
        kept = boxes[our_nms(boxes, scores, 0.7, regions)[1]]
        outputs = peers.detector_outputs(kept, objects, image, classes, rng)
        _compare_classes(found, "detector", "Detector's last step", (*outputs, 0.3, 0.05, keep))
        progress(0.75, "detector")
        cells, classes, keep = sizes["yolo"]
        outputs = peers.yolo_outputs(cells, classes, sizes["objects"], rng)
        _compare_classes(found, "yolo", "YOLO", (*outputs, 0.45, 0.005, keep))
        progress(1.0, "YOLO")
        return {
            "input_size": image,
            "protocol": {
                **TIMED,
                "boxes": f"decoded from anchors around {sizes['objects']} objects, with errors and with scores that "
                "follow the overlap; no two scores equal",
                "timed region": "boxes and scores on the device to what is kept; ours one XLA program, peers as their "
                "users call them",
                "agreement": "share of the kept boxes that both keep",
            },
        }


def _compare_classes(found: Comparison, case: str, title: str, inputs: tuple[Any, ...]) -> None:
    """`inputs`: boxes, scores, threshold of the IoU, threshold of the score, how many are kept."""
    from keras import ops

    from repro.ops.nms import class_nms
    from repro.peers.nms import CLASS_PEERS, identify
    from repro.peers.programs import compiled

    boxes, scores, iou_threshold, score_threshold, keep = inputs
    arrays = backend.to_device(boxes[None]), backend.to_device(scores[None])
    program = compiled(lambda b, s: class_nms(b, s, iou_threshold, score_threshold, keep))
    answer = {name: ops.convert_to_numpy(value)[0] for name, value in program(*arrays).items()}
    count = int(answer["count"])
    kept = identify(scores, answer["scores"][:count], answer["classes"][:count])
    above = int((scores > score_threshold).sum())
    text = f"{title}: {len(scores)} boxes x {scores.shape[1]} classes, {above} scores above {score_threshold}, "
    text += f"IoU {iou_threshold}, at most {keep}"
    found.compare(case, text, (lambda: program(*arrays), kept), CLASS_PEERS, inputs, same_boxes)


def same_boxes(ours: Answer, theirs: Answer) -> dict[str, float]:
    """The share of the boxes that both keep of those that one keeps."""
    a, b = set(ours[0].tolist()), set(theirs[0].tolist())
    return {"kept": len(a & b) / max(len(a | b), 1) if a or b else 1.0}
