"""Pictures that know the data they were drawn from."""

import numpy as np
import pytest

from repro.errors import ReproError
from repro.report import curves, figures
from tests.support.results import everything


def test_the_hash_of_a_picture_follows_the_data_and_not_the_bytes(tmp_path):
    picture = curves.training_figure(everything(), "segmentation")
    path = tmp_path / "a.png"
    figures.write_png(path, picture.draw(), picture.data_hash)
    assert figures.png_data_hash(path) == picture.data_hash
    assert curves.training_figure(everything(val_mean_iou=[0.2, 0.5]), "segmentation").data_hash != picture.data_hash
    (curve,) = picture.data["curves"]
    assert curve["metric"]["epochs"] == (2.0, 4.0)
    assert curve["seeds"] == 2
    path.write_bytes(path.read_bytes()[:100])
    assert figures.png_data_hash(path) is None
    assert figures.png_data_hash(tmp_path / "absent.png") is None


def test_a_picture_that_is_no_image_is_refused(tmp_path):
    with pytest.raises(ReproError, match="uint8"):
        figures.write_png(tmp_path / "a.png", np.zeros((4, 4)), "0" * 64)
