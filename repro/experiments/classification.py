"""Classification presets.

shapes-vgg16        smoke  30 s on 2 cores; top-1 near 0.33, the majority class has 0.19
imagenette-vgg16    lab    some minutes on one GPU
imagenet2012-vgg16  paper  days on one GPU; the paper's centre crop reaches 71.5 % top-1
"""

from repro.experiments.base import Experiment
from repro.harness.config import Data, Majority, Network, Train

# one object a picture, so that its class is the label
SHAPES = Data(
    name="shapes",
    options={"image_size": 64, "max_objects": 1, "min_scale": 0.4, "max_scale": 0.8, "train_size": 768},
)
IMAGENETTE = Data(name="imagenette", test="val")
IMAGENET = Data(name="imagenet2012", test="val")

PRESETS = (
    Experiment(
        name="shapes-majority-label",
        about="the most frequent class of the generated pictures",
        configs={"smoke": Majority(task="classification", data=SHAPES)},
        value=50,
        seconds={"smoke": 3},
    ),
    Experiment(
        name="shapes-vgg16",
        about="VGG-16, narrow, on generated pictures of one object",
        configs={
            "smoke": Train(
                network=Network(name="vgg16", width=1 / 8, depth=0.5, input_size=(64, 64)),
                data=SHAPES,
                recipe="suite",
                epochs=14,
                batch_size=32,
                optimizer="adamw",
                learning_rate=2e-3,
                weight_decay=1e-4,
                schedule="cosine",
                warmup=0.05,
                clip_norm=1.0,
                augment={"flip": True, "jitter": 4},
                val_every=4,
            ),
        },
        value=60,
        seconds={"smoke": 30},
    ),
    Experiment(
        name="imagenette-majority-label",
        about="the most frequent class of Imagenette",
        configs={"lab": Majority(task="classification", data=IMAGENETTE)},
        value=40,
        seconds={"lab": 60},
    ),
    Experiment(
        name="imagenette-vgg16",
        about="VGG-16 at full width on Imagenette, from ImageNet weights where they can be had",
        configs={
            "lab": Train(
                network=Network(name="vgg16"),
                data=IMAGENETTE,
                recipe="suite",
                epochs=20,
                batch_size=64,
                optimizer="sgd",
                learning_rate=2e-3,
                weight_decay=5e-4,
                schedule="cosine",
                warmup=0.05,
                clip_norm=5.0,
                augment={"flip": True, "jitter": 16},
                init="imagenet",
                precision="mixed_bfloat16",
            ),
        },
        value=60,
        seconds={"lab": 600},
    ),
    Experiment(
        name="imagenet2012-vgg16",
        about="VGG-16 with the paper's recipe on ImageNet",
        configs={
            "paper": Train(
                network=Network(name="vgg16"),
                data=IMAGENET,
                recipe="paper",
                epochs=74,
                batch_size=256,
                optimizer="sgd",
                learning_rate=1e-2,
                momentum=0.9,
                weight_decay=5e-4,
                schedule="step",
                drops=(0.5, 0.75, 0.9),
                augment={"flip": True, "jitter": 16},
            ),
        },
        value=60,
        seconds={"paper": 400_000},
    ),
)
