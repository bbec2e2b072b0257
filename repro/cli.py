"""The command line. Each command is a few lines; the work is done by the modules they call."""

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from repro import backend, paths, registry
from repro.errors import ReproError, unknown_name

Profile = Literal["smoke", "cpu", "gpu", "paper"]
Compile = Literal["xla", "graph"]

# Options that several commands share.
Model = Annotated[str, arg(help="An architecture of `repro list models`.")]
DataSet = Annotated[str, arg(help="A data set of `repro list datasets`.")]
Size = Annotated[str | None, arg(help="Size of the network's input, HxW; the paper's by default.")]
Width = Annotated[float, arg(help="Share of the channels of every layer, above 0 and up to 1.")]
Depth = Annotated[float, arg(help="Share of the layers of every block, above 0 and up to 1.")]
Variant = Annotated[str | None, arg(help='"paper" or "released" where the two differ.')]
Precision = Annotated[Literal["float32", "tf32", "mixed_bfloat16"], arg(help="float32, tf32 or mixed_bfloat16.")]
Backend = Annotated[
    Literal["tensorflow", "jax"] | None, arg(help="tensorflow or jax; by default the one that can use the accelerator.")
]
Json = Annotated[bool, arg(name="json", help="Print JSON.")]


def run_cli(arguments: list[str]) -> int:
    """Run one command line and return its exit status; errors a user can act on are one line on stderr."""
    try:
        results = next((a for a in arguments if a.startswith("--results=")), None)
        if results:  # wherever it stands; commands read the environment
            arguments = [a for a in arguments if a != results]
            os.environ["REPRO_RESULTS"] = results.partition("=")[2]
        elif "--results" in arguments[:-1]:
            at = arguments.index("--results")
            os.environ["REPRO_RESULTS"] = arguments[at + 1]
            arguments = arguments[:at] + arguments[at + 2 :]
        status = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="repro",
            args=arguments,
            description="From FCN and R-CNN to Mask R-CNN and YOLOv3 in Keras 3, under one harness. Every command "
            "takes --results DIR (or REPRO_RESULTS) to keep results, runs and tables elsewhere.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        sys.stdout.flush()
        return status or 0
    except ReproError as error:
        print(f"repro: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `repro list claims | head`: nobody reads on, and Python would flush once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"repro: {what}. check the path, its permissions and the space on its disk", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("repro: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "480x640" or "224". Raises ReproError for anything else."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) in (1, 2) and all(part.isascii() and part.isdigit() and 0 < int(part) <= 16384 for part in parts):
        return int(parts[0]), int(parts[-1])
    raise ReproError(f"size {text!r} is not a size", "write HEIGHTxWIDTH in pixels, like 360x480")


def list_(
    what: Positional[Literal["models", "datasets", "experiments", "claims", "tables"]], as_json: Json = False
) -> None:
    """List models, data sets, experiments, claims or tables."""
    from repro.runner.listing import listing, show

    print(json.dumps(listing(what), indent=1) if as_json else show(what))


def describe(
    name: Positional[Model],
    variant: Variant = None,
    classes: int | None = None,
    channels: int | None = None,
    size: Size = None,
    width: Width = 1.0,
    depth: Depth = 1.0,
    heads: Literal["infer", "train"] = "infer",
    as_json: Json = False,
) -> None:
    """Parameters, shapes, operations and deviations of an architecture.

    Args:
        classes: Number of classes; the paper's by default.
        channels: Channels of the image.
        heads: "train" counts the heads that only training has.
    """
    registry.architecture(name)
    _load_keras(None)
    from repro.experiments.architectures import describe as card_of_network

    settings = {"num_classes": classes, "channels": channels, "input_size": parse_size(size), "heads": heads}
    card = card_of_network(name, variant=variant, width=width, depth=depth, **settings)
    if as_json:
        print(json.dumps(card, indent=1))
        return
    for key, value in card.items():
        if key == "deviations":
            print("deviations from the paper:", *(f"  - {text}" for text in value), sep="\n")
        else:
            print(f"{key:18} {f'{value:,}' if isinstance(value, int) else value}")


def data(name: Positional[DataSet], preview: bool = False, split: str | None = None, count: int = 6) -> None:
    """Get a data set ready, check it, say what it is; with --preview draw some of it with its annotations.

    Args:
        preview: Write a contact sheet and print where it is.
        split: The split to check or draw; the first by default.
        count: How many images to draw.
    """
    from repro.data.catalog import open_dataset

    dataset = open_dataset(name)
    info = dataset.info
    print(f"{info.title}: {info.source}; {info.size}; {info.licence}")
    dataset.prepare()
    if split is not None and split not in info.splits:
        raise unknown_name(f"split of {name}", split, info.splits)
    for each in info.splits:
        official, note = dataset.official(each)
        state = "official copy" if official else note
        print(f"{each:6} {dataset.size(each):8,} images  fingerprint {dataset.fingerprint(each)}  {state}")
    if preview:
        from PIL import Image

        from repro.drawing.overlays import contact_sheet

        chosen = split or info.splits[0]
        path = paths.runs_dir() / "preview" / f"{name}-{chosen}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(dataset, chosen, count)).save(path)
        print(f"contact sheet: {path}")


def train(
    name: Positional[Model],
    data: DataSet,
    epochs: float = 20.0,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    recipe: Literal["suite", "paper"] = "suite",
    size: Size = None,
    width: Width = 1.0,
    depth: Depth = 1.0,
    variant: Variant = None,
    padding: Literal["caffe", "same", "valid"] | None = None,
    init: str = "random",
    precision: Precision = "float32",
    compile: Compile | None = None,
    seed: int = 0,
    backend: Backend = None,
) -> int:
    """Train one network on one data set, score it on the test split, and keep weights and result.

    Args:
        epochs: Passes over the training split.
        batch_size: Images a step.
        learning_rate: Peak of the cosine schedule (AdamW).
        recipe: "paper" takes epochs, batch, optimizer and schedule from the paper instead.
        padding: FCNs: "caffe" as released, "same" for small images. U-Net: "valid" as in the paper, or "same".
        init: random or imagenet.
        compile: How the train step is compiled: by XLA (the default), or as TensorFlow's graph.
        seed: Of the weights, the order of the data and the augmentation.
    """
    from repro.runner.adhoc import training
    from repro.runner.suite import run_adhoc

    options = {"padding": padding} if padding else {}
    network = dict(size=parse_size(size), width=width, depth=depth, variant=variant, options=options)
    budget = dict(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, recipe=recipe)
    return run_adhoc(training(name, data, network, budget, init, precision), seed, backend, compile)


def eval_(
    name: Positional[str | None] = None,
    *,
    data: DataSet,
    weights: Path | None = None,
    predictions: Path | None = None,
    split: str = "test",
    size: Size = None,
    variant: Variant = None,
    backend: Backend = None,
) -> int:
    """Score a network's weights, or someone else's predictions without a network, on a split of a data set.

    --size and --variant are for Darknet's weights (the released variant by default): other files say what they are of.

    Args:
        name: An architecture of `repro list models`, with --weights.
        weights: A weight file (.safetensors) written by `repro train` or `repro run`, or of Darknet (.weights).
        predictions: A COCO results file (.json) or a folder of VOC's comp4_det_test_<class>.txt, without a model.
        split: The split to score.
        size: Darknet's weights: the network's input, HxW; the paper's by default.
        variant: Darknet's weights: "paper" or "released" (the default) where the two differ.
    """
    if predictions is not None:
        of_models = {"NAME": name, "--weights": weights, "--size": size, "--variant": variant, "--backend": backend}
        given = [option for option, value in of_models.items() if value is not None]
        if given:
            raise ReproError("--predictions are scored without a model", f"leave {' and '.join(given)} out")
        from repro.runner.adhoc import scored_predictions
        from repro.runner.suite import show

        show(scored_predictions(data, split, predictions))
        return 0
    if name is None or weights is None:
        raise ReproError("there is nothing to score", "give NAME and --weights FILE, or --predictions FILE")
    from repro.runner.adhoc import evaluation
    from repro.runner.suite import run_adhoc

    return run_adhoc(evaluation(name, data, weights, split, parse_size(size), variant), 0, backend)


def predict(
    name: Positional[Model],
    images: Positional[tuple[Path, ...]],
    weights: Path,
    out: Path = Path("predictions"),
    backend: Backend = None,
) -> None:
    """Colour-code or classify pictures of your own.

    Args:
        images: Images and folders of images.
        weights: A weight file (.safetensors) written by `repro train` or `repro run`.
        out: Where the pictures and predictions.json go.
    """
    if not images:
        raise ReproError("no image to predict", "name images or folders of images")
    from repro.runner.adhoc import card_of, pictures

    card = card_of(name, weights)
    files = pictures(images)
    _load_keras(backend)
    from repro.engine.predict import predict as write_predictions

    for line in write_predictions(card, files, weights, out):
        print(line)


def speed(
    name: Positional[Model],
    size: Size = None,
    width: Width = 1.0,
    depth: Depth = 1.0,
    precision: Precision = "float32",
    seconds: float = 60.0,
    backend: Backend = None,
) -> int:
    """Time one network: forward pass and train step, eager, traced and compiled; the best batch; memory.

    Args:
        seconds: Longest each group of measurements may take.
    """
    from repro.runner.adhoc import timing
    from repro.runner.suite import run_adhoc

    return run_adhoc(timing(name, parse_size(size), width, depth, precision, seconds), 0, backend)


def run(
    names: Positional[tuple[str, ...]] = (),
    profile: Profile | None = None,
    seeds: int | None = None,
    init: str | None = None,
    compile: Compile | None = None,
    backend: Backend = None,
    budget: str | None = None,
    fresh: bool = False,
    dry_run: bool = False,
) -> int:
    """Run experiments that are not finished here, write the tables, say where to read.

    Args:
        names: Experiments or globs; all of the profile by default.
        profile: smoke, cpu, gpu or paper; by default gpu where there is an accelerator, else smoke.
        seeds: Seeds 0..N-1 of every training; each preset's own number by default.
        init: Start trainings from random, imagenet or another experiment instead of their preset.
        compile: How trainings' steps are compiled instead of their preset; on an accelerator by XLA.
        budget: Time to spend, like 25m: the most valuable go first, none starts that would not end in time.
        fresh: Do finished runs again.
        dry_run: Only print what would run.
    """
    from repro.runner.plan import plan
    from repro.runner.suite import run_plan

    if seeds is not None and seeds < 1:
        raise ReproError(f"{seeds} seeds are impossible", "give --seeds 1 or more")
    tasks = plan(names, profile, seeds, init, backend, compile)
    return run_plan(tasks, budget, fresh, dry_run)


def tables(check: bool = False) -> int:
    """Write tables/ and the README's headline from results/.

    Args:
        check: Write nothing; list what differs and exit with status 1 if anything does.
    """
    from repro.runner.publish import check_all, write_all

    if not check:
        for path in write_all():
            print(f"wrote {path}")
        return 0
    differences = check_all()
    for difference in differences:
        print(difference, file=sys.stderr)
    print(
        f"tables/: {len(differences)} differences from results/" if differences else "tables/ are what results/ yield"
    )
    return 1 if differences else 0


def cite(result: Positional[str]) -> None:
    """Print the reference of one result.

    Args:
        result: A run id, experiment/run id, or the path of a result file.
    """
    from repro.runner.cite import cite as reference

    print(reference(result))


def doctor() -> None:
    """Packages, backend, accelerator, XLA and data found, on one screen."""
    from repro.runner.doctor import examine

    for line in examine():
        print(line)


def _load_keras(name: str | None) -> None:
    """Import Keras on a backend."""
    from repro.runner.doctor import muted

    backend.select(name)
    with muted():
        importlib.import_module("keras")


COMMANDS: dict[str, Callable[..., int | None]] = {
    "list": list_, "describe": describe, "data": data, "train": train, "eval": eval_, "predict": predict,
    "speed": speed, "run": run, "tables": tables, "cite": cite, "doctor": doctor,
}  # fmt: skip
