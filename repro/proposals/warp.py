"""Regions of an image warped to one size, for R-CNN: Girshick et al. 2014, Appendix A. On the host."""

import cv2
import numpy as np

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


def warp(image: np.ndarray, box: np.ndarray, size: tuple[int, int], fill: tuple[float, ...]) -> np.ndarray:
    """The part `box` (x1,y1,x2,y2) of an image uint8 [H,W,C], whatever its shape, as uint8 [h,w,C] of `size`,
    bilinear; pixels outside the image are `fill`, the mean colour.

    Enlarging and reducing alike take the four nearest pixels, as the released program does. A box without area becomes
    one pixel wide or high."""
    x1, y1, x2, y2 = (float(value) for value in box)
    across, down = max(x2 - x1, 1.0) / size[1], max(y2 - y1, 1.0) / size[0]
    # the centre of output pixel (0, 0) lies half a pixel of its own inside the box
    transform = np.array([[across, 0, x1 + 0.5 * across - 0.5], [0, down, y1 + 0.5 * down - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(image, transform, size[::-1], flags=flags, borderValue=fill)
    return warped if warped.ndim == 3 else warped[:, :, None]
