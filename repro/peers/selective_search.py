"""Selective search of OpenCV's contributed modules, under the rules of ours."""

import contextlib
from collections.abc import Iterator

import cv2
import numpy as np

from repro.proposals.selective_search import at_width, chosen


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread: the work of both, and what ours uses of it."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def check() -> None:
    """Raises ImportError where this OpenCV has no selective search."""
    try:
        cv2.ximgproc.segmentation.createSelectiveSearchSegmentation  # noqa: B018
    except AttributeError:
        problem = f"OpenCV {cv2.__version__} has no ximgproc: opencv-contrib-python-headless below 5 has"
        raise ImportError(problem) from None


def opencv(image: np.ndarray, max_boxes: int, width: int | None, min_side: int) -> np.ndarray:
    """Proposals of an RGB image uint8 [H,W,3] by `createSelectiveSearchSegmentation`, fast: float32 [N,4], half-open.

    OpenCV's fast mode has the colour spaces HSV and Lab, k of 150, 300 and 450 and two similarities; it orders boxes
    as ours does. Resized to `width`, boxes with a side under `min_side` dropped and cut to `max_boxes`, as ours.
    Raises ImportError where OpenCV lacks it."""
    check()
    original = image.shape[:2]
    image = at_width(image, width)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    search.switchToSelectiveSearchFast()
    found = np.asarray(search.process()).reshape(-1, 4)  # x, y, width, height
    boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    return chosen(boxes, image.shape[:2], original, max_boxes, min_side)
