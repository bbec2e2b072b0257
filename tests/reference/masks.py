"""Masks relative to boxes, one cell and one pixel at a time."""

import math

import numpy as np


def loop_target(mask, box, roi, size):
    """The definition, read slowly, of one target (Mask R-CNN, Section 3): bilinear between cell centres, clamped
    within the box, 0 outside."""
    side, target = len(mask), np.zeros((size, size), np.float32)
    for i in range(size):
        for j in range(size):
            y = roi[1] + (roi[3] - roi[1]) * (i + 0.5) / size
            x = roi[0] + (roi[2] - roi[0]) * (j + 0.5) / size
            v = (y - box[1]) / (box[3] - box[1]) * side - 0.5
            u = (x - box[0]) / (box[2] - box[0]) * side - 0.5
            if min(u, v) < -0.5 or max(u, v) > side - 0.5:
                continue
            u, v = np.clip([u, v], 0, side - 1)
            r, c = min(int(v), side - 2), min(int(u), side - 2)
            a, b = v - r, u - c
            value = (1 - a) * ((1 - b) * mask[r, c] + b * mask[r, c + 1])
            value += a * ((1 - b) * mask[r + 1, c] + b * mask[r + 1, c + 1])
            target[i, j] = value >= 0.5 - 1e-3
    return target


def loop_crop(mask, box, size):
    """The definition, read slowly: the share of each cell of a box that a mask covers, pixel by pixel."""
    x1, y1, x2, y2 = box
    high, wide = (y2 - y1) / size, (x2 - x1) / size
    cells = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            for y, x in np.argwhere(mask):
                down = min(y + 1, y1 + (i + 1) * high) - max(y, y1 + i * high)
                across = min(x + 1, x1 + (j + 1) * wide) - max(x, x1 + j * wide)
                cells[i, j] += max(down, 0) * max(across, 0)
    return cells / (high * wide)


def loop_grid_sample(mask, box, image_size):
    """The definition, read slowly: PyTorch's grid_sample, bilinear, padded with zeros, corners not aligned, at
    the grid of Detectron2's paste_masks_in_image."""
    height, width = mask.shape
    values = np.zeros(image_size)
    for row in range(image_size[0]):
        for column in range(image_size[1]):
            grid_y = (row + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
            grid_x = (column + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
            y, x = ((grid_y + 1) * height - 1) / 2, ((grid_x + 1) * width - 1) / 2
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        values[row, column] += mask[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return values
