"""Architectures, speed and peers.

architectures  seconds: every network built without memory, counted
speed-*        smoke: narrow, 64x64; cpu, gpu: full width at the paper's size (3 to 5 minutes each on 2 cores)
speed-camvid-* cpu, gpu: FCN-8s, SegNet and U-Net at one input size, so that their times can be compared
peer-vgg16     VGG-16's convolutions beside keras.applications, keras-cv and torchvision
operations-*   cpu, gpu: non-maximum suppression, RoI pooling and alignment, selective search beside other libraries'
"""

from repro.experiments.architectures import Architectures
from repro.experiments.nms_speed import NMSSpeed
from repro.experiments.peer import Peer
from repro.experiments.roi_speed import RoISpeed
from repro.experiments.search_speed import SearchSpeed
from repro.experiments.speed import Speed
from repro.presets.base import PROFILES, Preset, both
from repro.records.settings import Data, Network
from repro.registry import ARCHITECTURES

_BATCHES = (1, 2, 4, 8, 16, 32)
# one classifier and one segmenter are enough to see that timing works
_SMOKE = ("vgg16", "fcn8s")
# the segmenters that are compared, on one kind of image: CamVid's
_COMPARED = ("fcn8s", "segnet", "unet")
_PEERS = ("keras_applications", "keras_cv", "torchvision")


def _padding(name: str) -> dict[str, str]:
    return {"padding": "same"} if name.startswith(("fcn", "unet")) else {}


def _speed(name: str) -> Preset:
    configs, seconds = both(Speed(network=Network(name=name), batches=_BATCHES)), both(120)
    if name in _SMOKE:
        narrow = Network(name=name, width=1 / 8, depth=0.5, input_size=(64, 64), options=_padding(name))
        configs["smoke"] = Speed(network=narrow, batches=(1, 8, 32), train_batch=8, repetitions=20, warmup=5, seconds=4)
        seconds["smoke"] = 15
    about = f"latency, throughput, train step and compilation of {name}: eager, traced, XLA"
    return Preset(f"speed-{name}", about, configs, 40, seconds)


def _camvid_speed(name: str) -> Preset:
    network = Network(name=name, input_size=(360, 480), channels=3, num_classes=11, options=_padding(name))
    about = f"as speed-{name}, for CamVid: 360x480 RGB, 11 classes"
    return Preset(f"speed-camvid-{name}", about, both(Speed(network=network, batches=_BATCHES)), 45, both(120))


DESCRIPTION = (
    Preset(
        "architectures", "parameters, shapes and operations of every architecture",
        dict.fromkeys(PROFILES, Architectures()), 100, dict.fromkeys(PROFILES, 2),
        seeds=sum(len(entry.variants) for entry in ARCHITECTURES.values()),  # one result each
    ),
)  # fmt: skip
PRESETS = (
    *(_speed(entry.name) for entry in ARCHITECTURES.values() if entry.task != "detection"),
    *map(_camvid_speed, _COMPARED),
    Preset(
        "peer-vgg16", "VGG-16's convolutions: ours beside other libraries, same weights, same run",
        {
            "smoke": Peer(input_size=(64, 64), peers=_PEERS[:2], repetitions=20, warmup=5, seconds=5),
            **both(Peer(input_size=(224, 224), peers=_PEERS)),
        },
        35, {"smoke": 15, **both(60)},
    ),
    *(
        Preset(
            f"operations-{name}", f"{title}: ours beside other libraries, same inputs, same run", both(kind), 34,
            both(seconds),
        )
        for name, title, kind, seconds in (
            ("nms", "non-maximum suppression", NMSSpeed(), 20),
            ("roi", "RoI pooling and RoIAlign", RoISpeed(seconds=20.0), 130),
            ("selective-search", "selective search", SearchSpeed(data=Data(name="voc2007"), images=40), 80),
        )
    ),
)  # fmt: skip
