"""Class weights against frequencies worked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from repro.data.base import VOID, Sample
from repro.data.frequency import median_frequency_weights
from repro.errors import ReproError


def dataset_of(*maps):
    """A data set of label maps."""
    samples = [Sample(f"image{index}", None, semantic=np.array(labels, "uint8")) for index, labels in enumerate(maps)]
    return SimpleNamespace(size=lambda split: len(samples), sample=lambda split, index: samples[index])


def test_median_frequency_weights_by_hand():
    data = dataset_of([[0, 0, 0, 1], [0, 0, VOID, VOID]], [[0, 2], [2, 2]], [[VOID, VOID]])
    # class 0: 6 of the 10 pixels of both images; class 1: 1 of 6; class 2: 3 of 4; the median is class 0's 0.6
    expected = (1.0, 0.6 * 6, 0.6 / 0.75)
    assert median_frequency_weights(data, "train", 3) == pytest.approx(expected, rel=1e-12)
    # of the two frequencies in the middle, the median is the mean; class 4 is nowhere
    data = dataset_of([[0, 0, 1, 3], [0, 0, 1, 3]], [[2]])
    expected = (0.375 / 0.5, 0.375 / 0.25, 0.375 / 1.0, 0.375 / 0.25, 0.0)
    assert median_frequency_weights(data, "train", 5) == pytest.approx(expected, rel=1e-12)


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(ReproError, match=r"image1 of train has label 3. 3 classes are 0..2"):
        median_frequency_weights(dataset_of([[0]], [[1, 3]]), "train", 3)
    with pytest.raises(ReproError, match="no pixel of val has a label"):
        median_frequency_weights(dataset_of([[VOID]]), "val", 3)
