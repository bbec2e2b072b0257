"""Architectures, speed and peers.

architectures  seconds: every network built without memory, counted
speed-*        smoke: narrow, 64x64; lab: full width at the paper's size (3 to 5 minutes each on 2 cores)
speed-camvid-* lab: FCN-8s, SegNet and U-Net at one input size, so that their times can be compared
peer-vgg16     VGG-16's convolutions beside keras.applications, keras-cv and torchvision
operations-*   lab: non-maximum suppression, RoI pooling and alignment, selective search beside other libraries'
"""

from repro.experiments.base import Experiment
from repro.harness.config import Data, Inspect, Network, Operations, Peer, Speed
from repro.registry import ARCHITECTURES

_ARCHITECTURES = Experiment(
    name="architectures",
    about="parameters, shapes and operations of every architecture",
    configs={"smoke": Inspect(), "lab": Inspect(), "paper": Inspect()},
    value=100,
    seconds={"smoke": 2, "lab": 2, "paper": 2},
    seeds=sum(len(entry.variants) for entry in ARCHITECTURES.values()),  # one result each
)


def _speed(name: str, task: str) -> Experiment:
    configs = {"lab": Speed(network=Network(name=name), batches=(1, 2, 4, 8, 16, 32))}
    if name in _SMOKE:
        options = {"padding": "same"} if task == "segmentation" else {}
        narrow = Network(name=name, width=1 / 8, depth=0.5, input_size=(64, 64), options=options)
        configs["smoke"] = Speed(network=narrow, batches=(1, 8, 32), train_batch=8, repetitions=20, warmup=5, seconds=4)
    return Experiment(
        name=f"speed-{name}",
        about=f"latency, throughput, train step and compilation of {name}: eager, traced, XLA",
        configs=configs,
        value=40,
        seconds={"smoke": 15, "lab": 120},
    )


# one classifier and one segmenter are enough to see that timing works
_SMOKE = ("vgg16", "fcn8s")
# the segmenters that are compared, on one kind of image: CamVid's
_COMPARED = ("fcn8s", "segnet", "unet")
_PEERS = ("keras_applications", "keras_cv", "torchvision")

PRESETS = (
    _ARCHITECTURES,
    *(_speed(entry.name, entry.task) for entry in ARCHITECTURES.values() if entry.task != "detection"),
    *(
        Experiment(
            name=f"speed-camvid-{name}",
            about=f"as speed-{name}, for CamVid: 360x480 RGB, 11 classes",
            configs={
                "lab": Speed(
                    network=Network(
                        name=name,
                        input_size=(360, 480),
                        channels=3,
                        num_classes=11,
                        options={} if name == "segnet" else {"padding": "same"},
                    ),
                    batches=(1, 2, 4, 8, 16, 32),
                )
            },
            value=45,
            seconds={"lab": 120},
        )
        for name in _COMPARED
    ),
    Experiment(
        name="peer-vgg16",
        about="VGG-16's convolutions: ours beside other libraries, same weights, same run",
        configs={
            "smoke": Peer(input_size=(64, 64), peers=_PEERS[:2], repetitions=20, warmup=5, seconds=5),
            "lab": Peer(input_size=(224, 224), peers=_PEERS),
        },
        value=35,
        seconds={"smoke": 15, "lab": 60},
    ),
    *(
        Experiment(
            name=f"operations-{part.replace('_', '-')}",
            about=f"{title}: ours beside other libraries, same inputs, same run",
            configs={"lab": Operations(part=part, **settings)},
            value=34,
            seconds={"lab": seconds},
        )
        for part, title, settings, seconds in (
            ("nms", "non-maximum suppression", {}, 20),
            ("roi", "RoI pooling and RoIAlign", {"seconds": 20.0}, 130),
            ("selective_search", "selective search", {"data": Data(name="voc2007"), "images": 40}, 80),
        )
    ),
)
