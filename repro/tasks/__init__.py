"""The tasks of the suite: what networks learn, how it is scored and shown."""

from repro import registry
from repro.tasks.classification import Classification
from repro.tasks.detection import Detection
from repro.tasks.instance import Instance
from repro.tasks.rcnn import RCNN
from repro.tasks.segmentation import Segmentation
from repro.tasks.yolo import Yolo

AnyTask = Classification | Segmentation | Detection | Yolo | RCNN | Instance


def task_for(name: str) -> AnyTask:
    """The task that an architecture learns, with the settings that it needs. Raises ReproError for an unknown name."""
    entry = registry.architecture(name)
    if entry.name == "rcnn":
        return RCNN()
    if entry.task == "detection":
        return Yolo() if entry.paper.startswith("yolo") else Detection(proposals="fast" if name == "fast_rcnn" else "")
    tasks: dict[str, type[AnyTask]] = dict(classification=Classification, segmentation=Segmentation, instance=Instance)
    return tasks[entry.task]()
