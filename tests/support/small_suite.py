"""A suite of four short experiments, to be run in a process of its own and killed: `small_suite.py RESULTS`."""

import os
import sys

from repro.experiments.kind import Kind
from repro.experiments.majority import Majority
from repro.experiments.speed import Speed
from repro.experiments.train import Train
from repro.presets import PRESETS
from repro.presets.base import Preset
from repro.records.settings import Data, Network
from repro.runner import launch
from repro.runner.plan import Task, job_for
from repro.tasks.segmentation import Segmentation

DATA = Data(
    name="shapes",
    options={"image_size": 32, "max_objects": 1, "min_scale": 0.5, "train_size": 24, "val_size": 4, "test_size": 8},
)


def network(name: str) -> Network:
    """A network of a few thousand weights with dropout in it."""
    return Network(name=name, width=1 / 32, depth=0.3, input_size=(32, 32), options={"padding": "same"})


def training(name: str, init: str) -> Train:
    """Six epochs of three steps, with everything random that the harness has."""
    return Train(
        network=network(name), task=Segmentation(), data=DATA, recipe="suite", epochs=6, batch_size=8,
        optimizer="adamw", learning_rate=1e-2, schedule="cosine", init=init, val_every=2,
        augment={"flip": True, "jitter": 3, "zoom": (0.8, 1.2)},
    )  # fmt: skip


def presets() -> list[Preset]:
    """Baseline, FCN-32s, FCN-16s from its weights, a timing."""
    speed = Speed(network=network("fcn8s"), modes=("xla",), batches=(1, 2), warmup=1, repetitions=3, seconds=1)
    kinds: dict[str, Kind] = {
        "small-majority": Majority(task=Segmentation(), data=DATA),
        "small-fcn32s": training("fcn32s", "random"),
        "small-fcn16s": training("fcn16s", "small-fcn32s"),
        "small-speed": speed,
    }
    return [Preset(name, name, {"smoke": kind}, 1, {"smoke": 5}) for name, kind in kinds.items()]


def main() -> int:
    """Run what is not finished; print the states."""
    os.environ["REPRO_RESULTS"] = sys.argv[1]
    os.environ["REPRO_CHECKPOINT_SECONDS"] = "0"
    PRESETS.extend(presets())
    tasks = [Task(job=job_for(preset, "smoke", sys.argv[2]), value=1, seconds=5) for preset in presets()]
    launch.run(tasks, float("inf"), fresh=False)
    print({task.job.experiment: task.state for task in tasks})
    return 0


if __name__ == "__main__":
    sys.exit(main())
