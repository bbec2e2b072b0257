"""The settings of a run. What is written here goes into the config hash and into the result file."""

from typing import Any, Literal

import msgspec


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of every kind of settings; the tag says which kind."""


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An architecture as it is built; None means its default."""

    name: str
    variant: str | None = None
    width: float = 1.0
    depth: float = 1.0
    input_size: tuple[int, int] | None = None
    num_classes: int | None = None
    channels: int | None = None
    options: dict[str, Any] = {}


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set, the options of its loader and the splits used. `train_limit` uses the first n images.

    size: (height, width) images are fitted into; None is the network's input. Where it is larger, networks train on
    random windows and `tile_margin` says how they are scored."""

    name: str
    options: dict[str, Any] = {}
    train: str = "train"
    val: str = "val"
    test: str = "test"
    train_limit: int | None = None
    size: tuple[int, int] | None = None


class Train(Config, tag="train"):
    """Train a network, then score its last weights once on the test split.

    recipe: "paper" when the numbers are the paper's own, "suite" when they are ours. drops: fractions of the run
    after which schedule "step" divides the rate by 10. init: random, imagenet, tiny or an experiment's name.
    val_every: epochs between scores on the validation split (for the curves; nothing is selected by them).
    loss_options: for the loss of the model's file; class_weights "median_frequency" counts the training split.
    tile_margin: None scores whole images; a number scores by overlapping tiles, of whose outputs so many pixels at
    each side are dropped. label: tells apart rows of one model on one data set."""

    network: Network
    data: Data
    recipe: str
    epochs: float
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "step", "cosine"] = "constant"
    drops: tuple[float, ...] = ()
    warmup: float = 0.0
    clip_norm: float | None = None
    loss_options: dict[str, Any] = {}
    augment: dict[str, Any] = {}
    init: str = "random"
    precision: str = "float32"
    val_every: int = 5
    tile_margin: int | None = None
    label: str = ""


class TrainDetector(Train, tag="train_detector"):
    """Train a detector; the fields of `Train`, and more.

    proposals: mode of selective search ("fast" or "quality") for networks that do not propose regions themselves, and
    `search` its other options.
    phases: "joint", or "alternating" for the four steps of Faster R-CNN's Section 3.2. test: options of the model
    file's `detect`. test_limit: scores the first n test images. recall_counts: how many proposals
    their recall is measured at. max_boxes: objects a record has room for, by default what the network has."""

    proposals: str = ""
    search: dict[str, Any] = {}
    phases: Literal["joint", "alternating"] = "joint"
    test: dict[str, Any] = {}
    test_limit: int | None = None
    recall_counts: tuple[int, ...] = (10, 30, 100, 300)
    max_boxes: int | None = None


class TrainRCNN(TrainDetector, tag="train_rcnn"):
    """Train R-CNN: `epochs` and the optimizer are fine-tuning's, `num_proposals` what selective search gives it,
    `svm_cache` the negatives that an SVM keeps at most (None: no limit, as released)."""

    num_proposals: int = 2000
    svm_cache: int | None = None


class TrainYolo(TrainDetector, tag="train_yolo"):
    """Train a network of the YOLO line; the fields of `TrainDetector`, and more.

    sizes: sides of the square images that training changes between every `size_steps` steps (YOLO v2, Section 2); ()
    is one size. burn_in: share of the run in which the rate of schedules "constant" and "step" grows."""

    sizes: tuple[int, ...] = ()
    size_steps: int = 10
    burn_in: float = 0.0


class TrainInstance(TrainDetector, tag="train_instance"):
    """Train a network for instance segmentation; the fields of `TrainDetector`. test: options of the network for its
    final boxes (`score_threshold`, `nms_threshold`, `max_detections`)."""


class Evaluate(Config, tag="evaluate"):
    """Score the weights of a file on the test split."""

    network: Network
    data: Data
    weights: str
    weights_sha256: str
    precision: str = "float32"
    tile_margin: int | None = None


class Predictions(Config, tag="predictions"):
    """Score someone else's predictions on the test split. predictions: a COCO results file or a folder of VOC's; task:
    keeps their scores out of the tables, which are of our models."""

    data: Data
    predictions: str
    predictions_sha256: str
    task: Literal["predictions"] = "predictions"


class Majority(Config, tag="majority"):
    """Answer every question with the training split's most frequent class."""

    task: str
    data: Data


class Speed(Config, tag="speed"):
    """Time a network with random weights: forward pass and train step, by mode, and the best batch."""

    network: Network
    precision: str = "float32"
    modes: tuple[str, ...] = ("eager", "graph", "xla")
    batches: tuple[int, ...] = (1, 2, 4)
    train_batch: int = 1
    warmup: int = 10
    repetitions: int = 50
    seconds: float = 60.0


class Lineage(Config, tag="lineage"):
    """Time R-CNN, Fast R-CNN and Faster R-CNN on VGG-16, stage by stage, on the first `images` of the test split.

    canvas: (height, width) the images are fitted into; region: R-CNN's warped side; proposals: mode of selective
    search; svd: inner widths of the compressed Fast R-CNN."""

    data: Data
    images: int = 1
    canvas: tuple[int, int] = (600, 1000)
    region: int = 224
    proposals: str = "fast"
    search: dict[str, Any] = {}
    num_proposals: int = 2000
    num_classes: int = 20
    width: float = 1.0
    depth: float = 1.0
    svd: tuple[int, int] = (1024, 256)
    precision: str = "float32"
    warmup: int = 10
    repetitions: int = 50
    seconds: float = 60.0


class DetectorSpeed(Config, tag="detector_speed"):
    """Time whole detectors with random weights in one run: the network, its decoding with non-maximum suppression, and
    all of it as one program; the best of `batches`."""

    networks: tuple[Network, ...]
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    precision: str = "float32"
    warmup: int = 10
    repetitions: int = 50
    seconds: float = 60.0


class MaskOverhead(Config, tag="mask_overhead"):
    """Time networks of Mask R-CNN with random weights, with their mask branch and without."""

    networks: tuple[Network, ...]
    precision: str = "float32"
    warmup: int = 10
    repetitions: int = 50
    seconds: float = 60.0


class Anchors(Config, tag="anchors"):
    """Cluster the sizes of a data set's boxes under 1 - IoU (YOLO v2, Section 2), for each k; `size`: (height, width)
    images are fitted into."""

    data: Data
    size: tuple[int, int]
    ks: tuple[int, ...] = tuple(range(1, 16))
    restarts: int = 10


class Operations(Config, tag="operations"):
    """Time operations beside other libraries' on the same inputs. `sizes`: of the inputs; `data` and `images`: what
    selective search looks at."""

    part: Literal["nms", "roi", "selective_search"]
    sizes: dict[str, Any] = {}
    data: Data | None = None
    images: int = 40
    precision: str = "float32"
    warmup: int = 10
    repetitions: int = 50
    seconds: float = 60.0


class Peer(Config, tag="peer"):
    """Time VGG-16's convolutional part beside other libraries' and compare the outputs for equal weights."""

    input_size: tuple[int, int]
    peers: tuple[str, ...]
    precision: str = "float32"
    warmup: int = 10
    repetitions: int = 50
    seconds: float = 60.0


class Gallery(Config, tag="gallery"):
    """Show test images to the networks that other experiments trained. `members`: the network of each experiment."""

    data: Data
    members: dict[str, str]
    precision: str = "float32"


class Inspect(Config, tag="inspect"):
    """Describe every architecture of the registry."""


AnyConfig = (
    Train | TrainDetector | TrainRCNN | TrainYolo | TrainInstance | Evaluate | Predictions | Majority
    | Speed | Lineage | DetectorSpeed | MaskOverhead | Anchors | Operations | Peer | Gallery
    | Inspect
)  # fmt: skip


def network_of(config: AnyConfig) -> Network | None:
    """The network a configuration is about, if any."""
    return getattr(config, "network", None)
