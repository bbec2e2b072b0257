"""Repro: from FCN and R-CNN to Mask R-CNN and YOLOv3 in Keras 3, under one harness."""

__version__ = "0.1.0"
