"""Made-up results, and the tables made of them."""

import csv
import io

from repro.experiments import KINDS
from repro.records.result import Dataset, Init, Machine, Result, Timing, Xla
from repro.records.versions import version_of
from repro.report import readme, tables

CAMVID = Dataset(name="camvid", version="1", split="test", fingerprint="f" * 16, official=True)
COPY = Dataset(name="camvid", version="1", split="test", fingerprint="e" * 16, official=False, note="JPEG files")
IMAGENET = Dataset(name="imagenet2012", version="5", split="val", fingerprint="d" * 16, official=True)
OLD, NEW = {"engine.train": 0}, {"engine.train": version_of("engine.train")}


def machine(name="m1", accelerator="none", cpu="Xeon", cores=2, driver=""):
    """A machine."""
    return Machine(id=name, accelerator=accelerator, driver=driver, cpu=cpu, cores=cores, memory_gib=8.0)


def result(run_id, **fields):
    """A whole result of a training, but for the fields that are given."""
    base = {
        "schema_version": 2, "run_id": run_id, "kind": "train", "task": "segmentation", "experiment": "camvid-fcn8s",
        "model": "fcn8s", "variant": "paper", "width": 1.0, "depth": 1.0, "input_size": (360, 480),
        "dataset": CAMVID, "profile": "gpu", "scale": "reduced", "seed": 0,
        "init": Init(source="camvid-fcn16s"),
        "config": {"kind": "train", "network": {"options": {"padding": "same"}}}, "config_hash": "0" * 12,
        "versions": NEW, "code_hash": "b" * 12, "commit": "c", "dirty": False, "depends_on": [], "weights_sha256": None,
        "backend": "tensorflow", "precision": "float32", "tf32": False,
        "xla": Xla(requested=True, used=True), "deterministic": False, "compile_cache": False,
        "machine": machine(), "packages": {}, "epochs": 40.0, "images_seen": 100, "metrics": scores(0.5),
        "protocol": {"void": "not scored"}, "timings": {}, "peak_memory_mib": None,
        "started": "2026-01-01T00:00:00+00:00", "wall_s": 1.0, "status": "ok",
    }  # fmt: skip
    return Result(**(base | fields))


def scores(mean_iou, **extra):
    """The metrics of a segmentation with two classes."""
    per_class = {"road": {"accuracy": 0.9, "iou": mean_iou, "dice": 0.8, "pixels": 300}}
    per_class["sky"] = {"accuracy": 0.8, "iou": mean_iou / 2, "dice": 0.7, "pixels": 100}
    names = ("pixel_accuracy", "mean_pixel_accuracy", "frequency_weighted_iou", "mean_dice")
    return {"mean_iou": mean_iou, **dict.fromkeys(names, 0.75), "per_class": per_class, **extra}


def timing(median, unit="ms", n=50):
    """A timing whose spread is a tenth of its median."""
    return Timing(median=median, p5=median * 0.9, p95=median * 1.1, n=n, unit=unit)


def speed(run_id, where, latency=10.0, **fields):
    """A result of a speed measurement."""
    timings = {"latency.eager": timing(4 * latency), "latency.graph": timing(2 * latency)}
    timings |= {"latency.xla": timing(latency), "compile.xla": timing(7.0, "s", 1)}
    base = {
        "kind": "speed",
        "experiment": "speed-fcn8s",
        "dataset": None,
        "init": None,
        "task": "",
        "config": {"kind": "speed"},
    }
    metrics = {"batch": 1, "peak_memory_mib": {"latency.xla": 812.0}}
    return result(run_id, **(base | {"machine": where, "timings": timings, "metrics": metrics} | fields))


def rows_of(files, name):
    """The rows of a table, as its CSV file has them."""
    return list(csv.DictReader(io.StringIO(files[f"{name}.csv"])))


def table_of(result):
    """The table that an expected result belongs to."""
    return result.task or "xla"


def files_of(results, expected=()):
    """The files of all tables, by name."""
    return tables.render_all(KINDS, results, expected, table_of)[0]


def headline(results):
    """The headline of the README."""
    return readme.headline(KINDS, results)


VOC2007 = Dataset(name="voc2007", version="1", split="test", fingerprint="c" * 16, official=True)


def trained_detector(run_id, model="faster_rcnn", score=0.5, recall=None, seconds=(8.0, 2.0), more=None, **fields):
    """A training result of a detector."""
    metrics = {"map": score, "train_images": 20, "images": 5, **(more or {})}
    metrics |= {"recall": recall} if recall else {}
    proposals = "" if model == "faster_rcnn" else "fast"
    base = {
        "experiment": f"voc-{model}", "task": "detection", "model": model, "dataset": VOC2007, "metrics": metrics,
        "config": {"kind": "train", "network": {"name": model}, "task": {"name": "detection", "proposals": proposals}},
        "history": {"seconds": list(seconds)}, "input_size": (600, 1000), "init": None,
    }  # fmt: skip
    return result(run_id, **base | fields)


DUBAI = Dataset(name="dubai", version="1", split="test", fingerprint="c" * 16, official=False, note="no official split")


def trained(run_id, model="fcn8s", latency=10.0, mean_iou=0.5, data=None, tile_margin=None, more=None, **fields):
    """A training result as it is written today: with the cost of the network beside its scores."""
    config = {
        "kind": "train", "network": {"options": {"padding": "same"}}, "data": {"name": "camvid"} | (data or {}),
        "loss_options": {}, "augment": {"flip": True, "jitter": 8, "zoom": [0.9, 1.4]}, "batch_size": 8,
        "task": {"name": "segmentation", "tile_margin": tile_margin},
    }  # fmt: skip
    config |= fields.pop("config", {})
    metrics = scores(mean_iou, params=1_200_000, flops=3_400_000_000, **(more or {}))
    base = {"model": model, "experiment": f"camvid-{model}", "config": config, "metrics": metrics}
    base |= {"timings": {"latency.xla": timing(latency)}, "peak_memory_mib": 1500.4}
    return result(run_id, **(base | fields))


HISTORY = {
    "loss": [2.0, 1.0, 0.5, 0.4],
    "epoch": [1.0, 2.0, 3.0, 4.0],
    "val_epoch": [2.0, 4.0],
    "val_mean_iou": [0.2, 0.4],
}


def everything(**change):
    """Two seeds with curves, and a timing."""
    where = machine(accelerator="NVIDIA H200", driver="570")
    return [result("r", history=HISTORY | change), result("q", seed=1, history=HISTORY), speed("s", where)]
