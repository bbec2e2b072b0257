"""YOLO v2's dimension clusters: how well k centres cover the sizes of a data set's boxes, for each k.

Redmon & Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017, Section 2, Figure 2 and Table 1.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from repro.data.base import open_dataset
from repro.data.cache import fit_scale
from repro.errors import ReproError
from repro.harness.config import Anchors, Data
from repro.harness.run import Job, Run, dataset_of
from repro.ops.anchors import base_anchors
from repro.solvers import average_iou, kmeans_boxes

CELL = 32  # pixels of the canvas: the unit of anchors in YOLO v2's .cfg files
MOST = 50_000  # sizes that are clustered; the average IoU is that of all
_SHORTER, _LONGER = 600, 1000  # the sides that Faster R-CNN scales images to (Section 3.3 of its paper)


def anchor_clusters(job: Job, progress: Callable[[float, str], None]) -> None:
    """Cluster the box sizes of the training split. Writes one result a seed, of which k-means starts."""
    config: Anchors = job.config
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    runs = [Run(job, seed) for seed in job.seeds]
    sizes = box_sizes(dataset, config.data, config.size, lambda part: progress(0.5 * part, "reading boxes"))
    hand = hand_picked()
    for number, (run, seed) in enumerate(zip(runs, job.seeds, strict=True)):
        clusters: dict[str, dict[str, Any]] = {}
        for k in config.ks:
            clusters[str(k)] = {
                **clustered(sizes["fitted"], k, seed, config.restarts),
                "average_iou_stretched": clustered(sizes["stretched"], k, seed, config.restarts)["average_iou"],
            }
            done = number + len(clusters) / len(config.ks)
            progress(0.5 + 0.5 * done / len(runs), f"seed {seed}, {k} clusters")
        run.finish(
            scale=scale_of(config, dataset),
            metrics={
                "images": sizes["images"],
                "boxes": len(sizes["fitted"]),
                "clusters": clusters,
                "hand_picked": {"count": len(hand), "average_iou": average_iou(sizes["faster_rcnn"], hand)},
            },
            protocol={
                "distance": "1 - IoU of boxes that share their centre; a centre is the median of its boxes, the best "
                f"of {config.restarts} starts",
                "boxes": f"of the training split, without difficult and crowd objects; at most {MOST} are clustered, "
                "all are averaged over",
                "fitted": f"images fitted into {config.size[0]}x{config.size[1]}, their aspect kept",
                "stretched": "images stretched to the canvas, which gives a box its share of the image",
                "hand-picked": "the nine of Faster R-CNN, with images at its scale",
            },
            dataset=dataset_of(dataset, config.data.train),
            input_size=config.size,
            deterministic=True,
        )


def scale_of(config: Anchors, dataset: Any) -> str:
    """All boxes of a published training split are "paper", a part of them "reduced"; generated data is "smoke"."""
    if dataset.info.name == "shapes":
        return "smoke"
    whole = config.data.train_limit is None and dataset.official(config.data.train)[0]
    return "paper" if whole else "reduced"


def clustered(sizes: np.ndarray, k: int, seed: int, restarts: int) -> dict[str, Any]:
    """The k centres of sizes [N,2] in pixels, in pixels and in cells, smallest first, and the average IoU of the sizes
    with the best of them. Raises ReproError for fewer different sizes than k."""
    some = sizes.copy()  # k-means works in place where there is one cluster
    if len(sizes) > MOST:
        some = sizes[np.random.default_rng(seed).choice(len(sizes), MOST, replace=False)]
    centres = kmeans_boxes(some, k, seed=seed, restarts=restarts)
    return {
        "average_iou": average_iou(sizes, centres),
        "pixels": np.round(centres, 2).tolist(),
        "cells": np.round(centres / CELL, 5).tolist(),
    }


def hand_picked() -> np.ndarray:
    """Width and height [9,2] of Faster R-CNN's anchors, in pixels of its scale."""
    boxes = base_anchors().astype("float64")
    return boxes[:, 2:] - boxes[:, :2]


def box_sizes(dataset: Any, data: Data, canvas: tuple[int, int], progress: Callable[[float], None]) -> dict[str, Any]:
    """Width and height float64 [N,2] of the boxes that are trained on, in pixels: `fitted` into the canvas,
    `stretched` to it, and at the scale of `faster_rcnn`; and the number of `images`.

    Raises ReproError for a data set without boxes."""
    total = dataset.size(data.train)
    images = min(data.train_limit or total, total)
    sizes: dict[str, list[np.ndarray]] = {"fitted": [], "stretched": [], "faster_rcnn": []}
    for index in range(images):
        sample = dataset.sample(data.train, index)
        if sample.boxes is None:
            break
        kept = np.ones(len(sample.boxes), bool)
        for flags in (sample.difficult, sample.crowd):
            kept &= True if flags is None else ~flags
        boxes = sample.boxes[kept].astype("float64")
        sides = boxes[:, 2:] - boxes[:, :2]
        sides = sides[(sides > 0).all(axis=1)]
        original = np.asarray(sample.image.shape[:2], "float64")
        sizes["fitted"].append(sides * (fit_scale(sample.image.shape[:2], canvas) / original)[::-1])
        sizes["stretched"].append(sides * (canvas / original)[::-1])
        sizes["faster_rcnn"].append(sides * min(_SHORTER / original.min(), _LONGER / original.max()))
        progress((index + 1) / images)
    if not any(map(len, sizes["fitted"])):
        raise ReproError(f"{data.train} of {dataset.info.name} has no boxes", "give a data set for detection")
    return {name: np.concatenate(found) for name, found in sizes.items()} | {"images": images}
