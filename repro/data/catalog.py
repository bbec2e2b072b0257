"""The data sets of the suite, by name."""

from typing import Any

from repro.data.camvid import CamVid
from repro.data.cityscapes_instances import CityscapesInstances
from repro.data.coco import Coco2017
from repro.data.coco_joined import Coco2017Joined
from repro.data.dubai import Dubai
from repro.data.isbi2012 import Isbi2012
from repro.data.nuclei import Nuclei
from repro.data.penn_fudan import PennFudan
from repro.data.shapes import Shapes
from repro.data.tfds import ImageNet2012, Imagenette
from repro.data.tfds_detection import Coco2017Tfds, Voc2007Tfds, Voc2012Tfds
from repro.data.tfds_segmentation import Cityscapes, OxfordPets
from repro.data.tiny_imagenet import TinyImageNet
from repro.data.voc import Bccd, Voc2007, Voc2012
from repro.data.voc_seg import Voc2012Seg
from repro.errors import ReproError, unknown_name

# in the order of `repro list datasets`
_CLASSES = (
    Shapes, CamVid, Isbi2012, Dubai, Voc2012Seg, Voc2007, Voc2012, Bccd, Coco2017, PennFudan, Nuclei,
    CityscapesInstances, Voc2007Tfds, Voc2012Tfds, Coco2017Tfds, Coco2017Joined, OxfordPets, Cityscapes, TinyImageNet,
    Imagenette, ImageNet2012,
)  # fmt: skip
LOADERS: dict[str, Any] = {loader.info.name: loader for loader in _CLASSES}


def dataset_class(name: str) -> Any:
    """The loader class of a data set (its `info` is readable without data). Raises ReproError."""
    if name not in LOADERS:
        raise unknown_name("data set", name, LOADERS)
    return LOADERS[name]


def open_dataset(name: str, **options: Any) -> Any:
    """Construct a loader without touching its data. Raises ReproError for unknown names and options."""
    loader = dataset_class(name)
    try:
        return loader(**options)
    except TypeError as error:
        raise ReproError(f"impossible option for data set {name}: {error}", f"see `repro data {name}`") from None
