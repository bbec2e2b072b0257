"""The same test images through one network of each generation, which other runs trained: label maps, boxes and
instances, kept beside the result and drawn in one colour code."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from repro import backend, paths
from repro.data.catalog import open_dataset
from repro.data.masks import decode_rle, encode_rle
from repro.drawing.overlays import draw_instances, enlarge_masks, grid, legend
from repro.drawing.palette import voc_colormap
from repro.errors import ReproError
from repro.experiments.kind import Kind, is_generated, of_kind
from repro.files import sha256_of, write_lines
from repro.records.result import Artifact, Result, Xla
from repro.records.run import Outcome, Progress, Run, dataset_of, weights_path
from repro.records.samples import sample_indices
from repro.records.settings import Data
from repro.report.figures import Picture
from repro.report.galleries import LONGEST, draw_answer, drawn, enlarged, kept_lines
from repro.tasks import Segmentation, task_for
from repro.tasks.detection import chosen_objects

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale

# weak networks are sure of little, and an empty picture says less than a wrong box with its score
LEAST_SCORE, MOST = 0.1, 3


class Gallery(Kind, tag="gallery", frozen=True):
    """Show test images to the networks that other experiments trained. `members`: the network of each experiment."""

    RESULT: ClassVar[str] = "inspect"
    TABLE: ClassVar[str] = "instance"  # it fills none; what is missing of it is told there

    data: Data
    members: dict[str, str]
    precision: str = "float32"

    def needs(self) -> tuple[str, ...]:
        """The experiments of its members."""
        return tuple(self.members)

    def networks_used(self) -> tuple[str, ...]:
        """The networks of its members."""
        return tuple(self.members.values())

    def modules(self) -> tuple[str, ...]:
        """What trains the networks too: it decides what they answer."""
        tasks = (module for name in self.members.values() for module in task_for(name).modules())
        return (*super().modules(), "engine.train", *dict.fromkeys(tasks))

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """Keep a line of JSON for each network and image: run-length encoded `labels`, one mask a class, or the
        `boxes`, `scores` and `classes` of the best three that score 0.1 or more, with their `masks` where the network
        has them, in the original image.

        Raises ReproError where a network has no weights here, and for one of other classes than the data's."""

        tf32, split = backend.set_precision(self.precision), self.data.test
        dataset = open_dataset(self.data.name, **self.data.options)
        dataset.prepare()
        images = [dataset.sample(split, index).image for index in sample_indices(dataset.size(split))]
        for run in runs:
            lines, models = [], []
            for experiment in self.members:
                model, weights = _source(run, experiment)
                found = _answers(experiment, weights, images, dataset.info)
                lines += [{"experiment": experiment, "model": model, **entry} for entry in found]
                models.append(model)
                progress(len(models) / len(self.members), f"{experiment} shown")
            path = run.artifact("gallery.jsonl")
            write_lines(path, lines)
            yield Outcome(
                scale="smoke" if is_generated(self.data) else "reduced",
                metrics={"images": len(images), "networks": models},
                protocol={
                    "images": "test images, whole; segmentation networks, which were trained on scenes of their own, "
                    "see them at their own scale",
                    "shown": f"the class of the highest score at each pixel; the best {MOST} boxes or instances of an "
                    f"image that score {LEAST_SCORE:g} or more",
                },
                dataset=dataset_of(dataset, split),
                tf32=tf32,
                xla=Xla(requested=True, used=True),
                artifacts={"gallery": Artifact(file=path.name, sha256=sha256_of(path))},
            )

    @classmethod
    def figures(cls, results: Sequence[Result]) -> Mapping[str, Picture | str]:
        """The pictures of each data set, those of the newest run."""
        groups = {}
        for result in sorted(of_kind(results, cls), key=lambda r: r.started):
            data = result.require_dataset()
            groups[f"{data.name}_{data.fingerprint[:8]}_{result.metrics['images']}"] = [result]
        return drawn("generations", groups, lambda r: r.artifacts["gallery"].sha256, _draw, paths.results_dir())


def _source(run: Run, experiment: str) -> tuple[str, Path]:
    """The model of an experiment that a run needs, and its weights."""
    source = run.parents.get(experiment)
    if source is None or not weights_path(source).exists():
        raise ReproError(f"{experiment} has no weights here", f"repro run {experiment} --profile {run.profile}")
    return source.model, weights_path(source)


def _answers(experiment: str, weights: Path, images: Sequence[np.ndarray], info: Any) -> Iterator[dict[str, Any]]:
    """What the network of a weight file makes of each image, ready for JSON."""
    from repro.engine.checkpoint import read_card
    from repro.engine.predict import answers

    card = read_card(weights)
    network, known = card.network, card.task.class_names(info)
    if network.num_classes != len(known):
        problem = f"{experiment} tells {network.num_classes} classes apart, {info.name} has {len(known)}"
        raise ReproError(problem, "show a network of the same classes")
    if isinstance(card.task, Segmentation):
        network = msgspec.structs.replace(network, input_size=images[0].shape[:2])
    for answer in answers(card, network, images, weights):
        if "labels" in answer:
            yield {"labels": [encode_rle(answer["labels"] == label) for label in range(len(known))]}
        else:
            best = np.argsort(-answer["scores"], kind="stable")[:MOST]
            yield chosen_objects(answer, best[answer["scores"][best] >= LEAST_SCORE])


def _draw(group: Sequence[Result], results_dir: Path) -> np.ndarray:
    """Rows: images. Columns: the image, its true objects, and what each network makes of it."""
    (result,) = group
    data = result.require_dataset()
    dataset = open_dataset(data.name, **result.config["data"].get("options", {}))
    dataset.prepare()
    models, names = result.metrics["networks"], dataset.info.classes
    colours = voc_colormap()[1:]  # of classes, as in label maps, whose 0 is the background
    indices = sample_indices(dataset.size(data.split))
    lines = kept_lines(result, "gallery", results_dir, len(models) * len(indices))
    rows = []
    for number, index in enumerate(indices):
        sample = dataset.sample(data.split, index)
        image, _ = enlarged(sample.image, LONGEST)
        masks = enlarge_masks(sample.masks, image.shape[:2])
        truth = draw_instances(image, masks, sample.classes, names, colours[sample.classes])
        entries = lines[number :: len(indices)]  # a network after another
        answers = [_drawn_answer(image, entry, sample.image.shape[:2], names, colours) for entry in entries]
        rows.append([image, truth, *answers])
    titles = ["image", "objects", *models]
    key = legend(names, colours, (LONGEST + 8) * len(titles))
    return grid(rows, titles, legend=key, cell=(LONGEST, LONGEST))


def _drawn_answer(
    image: np.ndarray, entry: dict[str, Any], original: tuple[int, int], names: Sequence[str], colours: np.ndarray
) -> np.ndarray:
    """A network's answer, which is in pixels of the original, over the enlarged image."""
    if "labels" not in entry:
        return draw_answer(image, entry, original, names, colours)
    masks = np.array([decode_rle(mask) for mask in entry["labels"]])
    return draw_instances(image, enlarge_masks(masks[1:], image.shape[:2]), palette=colours)
