"""The kinds of experiments: the only list of them."""

from typing import Any, Union

import msgspec

from repro.experiments.anchors import Anchors
from repro.experiments.architectures import Architectures
from repro.experiments.detector_speed import DetectorSpeed
from repro.experiments.evaluate import Evaluate
from repro.experiments.gallery import Gallery
from repro.experiments.kind import Kind
from repro.experiments.lineage import Lineage
from repro.experiments.majority import Majority
from repro.experiments.mask_overhead import MaskOverhead
from repro.experiments.nms_speed import NMSSpeed
from repro.experiments.peer import Peer
from repro.experiments.predictions import Predictions
from repro.experiments.roi_speed import RoISpeed
from repro.experiments.search_speed import SearchSpeed
from repro.experiments.speed import Speed
from repro.experiments.train import Train

# in the order in which their tables are read
KINDS: list[type[Kind]] = [
    Architectures,
    Train,
    Evaluate,
    Majority,
    Predictions,
    Lineage,
    DetectorSpeed,
    MaskOverhead,
    Anchors,
    Gallery,
    Speed,
    Peer,
    NMSSpeed,
    RoISpeed,
    SearchSpeed,
]


def read_kind(settings: dict[str, Any]) -> Kind:
    """Settings as a result or a job holds them. Raises msgspec.ValidationError where no kind understands them."""
    return msgspec.convert(settings, Union[tuple(KINDS)])  # noqa: UP007 - the list is known when it is called
