"""Which runs share a row, and what a row says of them.

Accuracy pools seeds by (experiment, backend, precision, settings, versions) over machines; speed pools by
(accelerator or CPU, driver, backend, precision), never by host. Nothing of another scale shares a row."""

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from repro.files import canonical_hash
from repro.records.result import Machine, Result, Timing
from repro.records.versions import is_stale
from repro.registry import ARCHITECTURES
from repro.report.render import Column, Row, Section, columns, number

SCALES = ("paper", "reduced", "smoke")
METRICS = {
    "classification": {"top1": "top-1 %", "top5": "top-5 %"},
    "segmentation": {
        "mean_iou": "mIoU %", "pixel_accuracy": "pixel acc. %", "mean_dice": "Dice %",
        "mean_pixel_accuracy": "mean acc. %", "frequency_weighted_iou": "f.w. IoU %", "rand_score": "V_rand %",
        "rand_score_best": "V_rand % at best threshold",
    },
    "detection": {
        "map": "mAP %", "map_11_point": "mAP % (11 points)", "coco_ap": "COCO AP %", "coco_ap50": "COCO AP50 %",
        "map_unrefined": "mAP % without box regression", "map_softmax": "mAP % of the softmax",
    },
    "instance": {
        "mask_ap": "mask AP %", "mask_ap50": "mask AP50 %", "mask_ap75": "mask AP75 %", "coco_ap": "box AP %",
        "coco_ap50": "box AP50 %", "mask_iou_mean": "mask IoU % of matched pairs",
    },
}  # fmt: skip
DATA_TITLES = {
    "shapes": "Shapes (generated)", "camvid": "CamVid", "cityscapes": "Cityscapes", "isbi2012": "ISBI 2012 EM",
    "sun_rgbd": "SUN RGB-D", "phc_u373": "ISBI tracking, PhC-U373", "dic_hela": "ISBI tracking, DIC-HeLa",
    "dubai": "Dubai from above", "oxford_iiit_pet": "Oxford-IIIT Pet", "tiny_imagenet": "Tiny-ImageNet",
    "imagenette": "Imagenette", "imagenet2012": "ImageNet 2012", "voc2011_seg": "PASCAL VOC 2011",
    "voc2012_seg": "PASCAL VOC 2012", "voc2007": "PASCAL VOC 2007", "voc2012": "PASCAL VOC 2012",
    "bccd": "BCCD blood cells", "coco2017": "COCO 2017", "penn_fudan": "Penn-Fudan pedestrians",
    "nuclei": "DSB 2018 nuclei", "cityscapes_instances": "Cityscapes, instances",
}  # fmt: skip
BASELINE = "majority"
_LOSSES = {"cross_entropy": "cross-entropy", "sigmoid": "sigmoid cross-entropy", "dice": "Dice"}
_PRECISIONS = ("float32", "tf32", "mixed_bfloat16")
_ORDER = {name: index for index, name in enumerate((BASELINE, *ARCHITECTURES))}


@dataclass(frozen=True)
class Estimate:
    """Mean and sample standard deviation (None for one) over n seeds."""

    mean: float
    std: float | None
    n: int

    def percent(self) -> str:
        """`49.8 ± 0.4`, in percent; without ± for one seed."""
        return f"{100 * self.mean:.1f}" + ("" if self.std is None else f" ± {100 * self.std:.1f}")


@dataclass(frozen=True)
class Pool:
    """The runs behind one row. `code` is current or stale."""

    key: tuple[Any, ...]
    results: tuple[Result, ...]
    code: str = "current"

    @property
    def first(self) -> Result:
        """The run that stands for what all runs of the pool share."""
        return self.results[0]

    @property
    def files(self) -> tuple[str, ...]:
        """The result files, relative to the folder that holds `results/` and `tables/`."""
        return tuple(sorted(f"results/{result.experiment}/{result.run_id}.json" for result in self.results))

    @property
    def seeds(self) -> list[int]:
        """The seeds that ran, in order."""
        return sorted({result.seed for result in self.results})

    @property
    def hardware(self) -> str:
        """What it ran on."""
        return " + ".join(sorted({hardware(result.machine) for result in self.results}))

    def score(self, metric: str) -> Estimate | None:
        """A metric over its seeds."""
        return estimate(self.results, lambda r: r.metrics.get(metric))

    def row_id(self, letter: str) -> str:
        """A short name that follows from what was pooled, so that it stays when other rows come and go."""
        return letter + canonical_hash(list(self.key))[:6]


def precision_of(result: Result) -> str:
    """`tf32` where float32 convolutions ran in TF32, else the precision that was asked for."""
    return "tf32" if result.tf32 and result.precision == "float32" else result.precision


def hardware(machine: Machine) -> str:
    """The accelerator, or the CPU with its cores where there is none."""
    if machine.accelerator.lower() not in ("", "none", "cpu"):
        return machine.accelerator
    return f"{machine.cpu} ({machine.cores} cores)"


def data_title(result: Result) -> str:
    """The data set's name, marked wherever files or split are not the published ones."""
    if result.dataset is None:
        return ""
    title = DATA_TITLES.get(result.dataset.name, result.dataset.name)
    note = result.dataset.note
    return title if result.dataset.official else f"{title} (not official{f': {note}' if note else ''})"


def model_rank(name: str) -> int:
    """Where a model stands in tables, figures and galleries: the baseline, then the order of the registry."""
    return _ORDER.get(name, len(_ORDER))


def model_title(result: Result) -> str:
    """The model with its variant and its configuration's label, where these are not the default."""
    if result.model == BASELINE:
        return "majority class"
    extra = [result.variant] if result.variant not in ("", "paper") else []
    extra += [str(result.config["label"])] if result.config.get("label") else []
    return result.model + (f" ({', '.join(extra)})" if extra else "")


def size_text(size: Iterable[int | None]) -> str:
    """`360x480`; empty for a size of nothing."""
    numbers = list(size)
    return "x".join("?" if number is None else str(number) for number in numbers) if any(numbers) else ""


def canvas_of(result: Result) -> tuple[int, int]:
    """(height, width) images were fitted into: the network's input unless the configuration says otherwise."""
    height, width = (result.config.get("data") or {}).get("size") or result.input_size
    return height, width


def is_tiled(result: Result) -> bool:
    """Whether images were scored tile by tile."""
    return (result.config.get("task") or {}).get("tile_margin") is not None or canvas_of(result) != result.input_size


def input_text(result: Result) -> str:
    """What the network saw at a time: `360x480`, or `256x256 tiles of 512x512`."""
    seen = size_text(result.input_size)
    return f"{seen} tiles of {size_text(canvas_of(result))}" if is_tiled(result) else seen


def loss_text(result: Result) -> str:
    """The loss of a training run in the field's words; empty for a run that trained nothing."""
    config = result.config
    if result.kind != "train":
        return ""
    options = dict(config.get("loss_options") or {})
    if result.task in ("detection", "instance"):  # detectors have losses of their own, of several parts
        options.pop("anchors", None)  # the network's, which shape its loss too
        return ", ".join(["its paper's", *settings(options)])
    kind = str(options.pop("kind", "cross_entropy"))
    parts = [_LOSSES.get(kind, kind)]
    weights = options.pop("class_weights", None)
    parts += ["median-frequency"] if weights == "median_frequency" else ["class weights"] if weights else []
    parts += ["weight map"] if (config.get("data") or {}).get("options", {}).get("weight_map") else []
    return ", ".join([*parts, *settings(options)])


def settings(options: dict[str, Any]) -> list[str]:
    """`flip`, `jitter 8`, `zoom 0.9 to 1.4`: options as words; what is switched off is left out."""
    words = []
    for name, value in sorted(options.items()):
        words += [name if value is True else f"{name} {_shown(value)}"] if value not in (False, None) else []
    return words


def _shown(value: Any) -> Any:
    """A setting's value: `0.9 to 1.4` of a range, `1x2, 3x4` of a list of sizes."""
    if not isinstance(value, list | tuple):
        return value
    if value and isinstance(value[0], list | tuple):
        return ", ".join("x".join(f"{v:g}" for v in part) for part in value)
    return " to ".join(f"{v:g}" for v in value)


def grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """Items by key, in the order in which the keys come."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def estimate(results: Iterable[Result], read: Callable[[Result], Any]) -> Estimate | None:
    """Mean and deviation over seeds; the runs of one seed are averaged first. None when no run has it."""
    by_seed: dict[int, list[float]] = {}
    for result in results:
        value = read(result)
        if isinstance(value, int | float):
            by_seed.setdefault(result.seed, []).append(float(value))
    means = [statistics.fmean(values) for _, values in sorted(by_seed.items())]
    if not means:
        return None
    return Estimate(statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else None, len(means))


def agreement(results: Sequence[Result], metric: str) -> str:
    """How machines compare: '' for one, else agree, differ, or undecided (unequal, and one has one seed).

    Means agree when they differ by less than the tables' rounding or by at most two standard errors."""
    by_machine = grouped(results, lambda r: r.machine.id)
    means = [estimate(runs, lambda r: r.metrics.get(metric)) for runs in by_machine.values()]
    verdicts = set()
    for a, b in itertools.combinations([mean for mean in means if mean], 2):
        gap = abs(a.mean - b.mean)
        if gap < 0.0005:
            verdicts.add("agree")
        elif a.std is None or b.std is None:
            verdicts.add("undecided")
        else:
            error = (a.std**2 / a.n + b.std**2 / b.n) ** 0.5
            verdicts.add("agree" if gap <= 2 * error else "differ")
    return next((word for word in ("differ", "undecided", "agree") if word in verdicts), "")


def pool(results: Iterable[Result], key: Callable[[Result], tuple[Any, ...]]) -> list[Pool]:
    """Group runs by a key, in the order of the tables: baseline, then models, today's code before stale."""
    pools = []
    for members in grouped(results, lambda r: repr(key(r))).values():
        members.sort(key=lambda r: (r.experiment, r.seed, r.run_id))
        code = "stale" if is_stale(members[0].versions) else "current"
        pools.append(Pool(key(members[0]), tuple(members), code))

    def order(entry: Pool) -> tuple[Any, ...]:
        first, precision = entry.first, precision_of(entry.first)
        rank = _PRECISIONS.index(precision) if precision in _PRECISIONS else len(_PRECISIONS)
        setting = first.backend != "tensorflow", first.backend, rank, precision
        model = model_rank(first.model), first.model, first.variant
        return *model, entry.code == "stale", first.experiment, *setting, repr(entry.key)

    return sorted(pools, key=order)


def _run_key(r: Result) -> tuple[Any, ...]:
    network = (r.model, r.variant, r.width, r.depth, r.input_size)
    versions = tuple(sorted(r.versions.items()))
    # two experiments may share one baseline
    experiment = "" if r.model == BASELINE else r.experiment
    return (r.scale, r.kind, experiment, *network, r.backend, precision_of(r), r.config_hash, versions)


def accuracy_pools(results: Iterable[Result], task: str) -> list[Pool]:
    """Finished training and evaluation runs of a task, pooled over seeds and machines."""

    def key(r: Result) -> tuple[Any, ...]:
        data = (r.dataset.name, r.dataset.split, r.dataset.fingerprint, r.dataset.official) if r.dataset else ()
        return (*_run_key(r), *data)

    chosen = (r for r in results if r.status == "ok" and r.kind in ("train", "eval") and r.task == task)
    return pool((r for r in chosen if METRICS[task].keys() & r.metrics.keys()), key)


def speed_pools(results: Iterable[Result]) -> list[Pool]:
    """Timing runs pooled over hosts with the same accelerator (or CPU) and driver."""
    return pool(results, lambda r: (*_run_key(r), hardware(r.machine), r.machine.driver))


def timing_text(timing: Timing | None) -> str:
    """Median and, of several repetitions, the 5th to 95th percentile; empty where nothing was timed."""
    if timing is None:
        return ""
    spread = "" if timing.n == 1 else f" ({number(timing.p5)}–{number(timing.p95)})"
    return number(timing.median) + spread


def pooled_timing(results: Iterable[Result], name: str) -> Timing | None:
    """A timing over several runs: median of their medians, lowest p5, highest p95, all repetitions."""
    found = [result.timings[name] for result in results if name in result.timings]
    if not found:
        return None
    median = statistics.median(timing.median for timing in found)
    low, high = min(timing.p5 for timing in found), max(timing.p95 for timing in found)
    return Timing(median=median, p5=low, p95=high, n=sum(timing.n for timing in found), unit=found[0].unit)


def protocol_notes(pools: Sequence[Pool], letter: str) -> list[str]:
    """The measuring protocol below a section: value by row, without rows where all (the baseline aside) share it."""
    everyone = {entry.row_id(letter) for entry in pools if entry.first.model != BASELINE}
    values: dict[str, dict[str, list[str]]] = {}
    for entry in pools:
        for key, value in sorted({(key, str(value)) for r in entry.results for key, value in r.protocol.items()}):
            values.setdefault(key, {}).setdefault(value, []).append(entry.row_id(letter))
    parts = []
    for key, found in sorted(values.items()):
        said = [value if everyone <= set(rows) else f"{value} ({', '.join(rows)})" for value, rows in found.items()]
        parts.append(f"{key.replace('_', ' ')}: {', '.join(said)}")
    return [f"Protocol: {'; '.join(parts)}."] if parts else []


def heading(scale: str, text: str) -> str:
    """A section's heading; smoke runs say that they are no measurement of the method."""
    return f"Smoke, only to show that the suite works: {text}" if scale == "smoke" else f"{text}, {scale} scale"


def by_scale(pools: Sequence[Pool]) -> Iterator[tuple[str, list[Pool]]]:
    """The scales that ran, best first, each with its pools."""
    for scale in SCALES:
        if chosen := [entry for entry in pools if entry.first.scale == scale]:
            yield scale, chosen


MakeRows = Callable[[Pool], Iterable[Row]]
MakeNotes = Callable[[list[Pool], list[Row]], Iterable[str]]


def sections_by_scale(
    title: str,
    shown: Sequence[Column],
    pools: Sequence[Pool],
    make_rows: MakeRows,
    make_notes: MakeNotes | None = None,
    csv: bool = True,
) -> list[Section]:
    """The rows of pools, a section for each scale that has any."""
    return [
        Section(heading(scale, title), shown, rows, tuple(make_notes(chosen, rows)) if make_notes else (), csv)
        for scale, chosen in by_scale(pools)
        if (rows := [row for entry in chosen for row in make_rows(entry)])
    ]


SETUP = columns("padding*", "width*", "input*", "backend*", "precision*", "hardware*")
TRAINING = columns("loss*", "augment:augmentation*", "batch:batch size*", "rate:learning rate*")
CODE = columns("code")
OF_SEEDS, OF_TIMES = ("mean", "std", "n"), ("median", "p5", "p95", "n")


def setup_of(entry: Pool) -> tuple[dict[str, str], dict[str, Any]]:
    """What every row says of its runs, as text and as values."""
    first = entry.first
    padding = first.config.get("padding") or first.config.get("network", {}).get("options", {}).get("padding")
    cells = {
        "padding": str(padding or ""),
        "width": f"{first.width:g}" + ("" if first.depth == 1 else f", depth {first.depth:g}"),
        "input": input_text(first),
        "backend": first.backend,
        "precision": precision_of(first),
        "hardware": entry.hardware,
        "driver": first.machine.driver,
    }
    values: dict[str, Any] = {"experiment": first.experiment, "model": first.model, "variant": first.variant}
    values |= {"label": first.config.get("label"), "padding": padding, "scale": first.scale}
    values |= {"width": first.width, "depth": first.depth}
    values |= {"input_height": first.input_size[0], "input_width": first.input_size[1]}
    values |= {name: cells[name] for name in ("backend", "precision", "hardware")}
    values |= {"code": entry.code, "config_hash": first.config_hash, "runs": len(entry.results)}
    if first.model == BASELINE:
        cells = {}
    return {"model": model_title(first), "code": "stale" if entry.code == "stale" else ""} | cells, values


def row_of(entry: Pool, letter: str) -> Row:
    """A row with what every row says of its runs, to which its own cells and values are added."""
    cells, values = setup_of(entry)
    row_id = entry.row_id(letter)
    return Row(row_id, {"id": row_id, **cells}, values, entry.files)


def spread(name: str, found: Estimate | Timing | None, parts: Sequence[str] = OF_SEEDS) -> dict[str, Any]:
    """`top1_mean`, `top1_std` and `top1_n` of an estimate, or the parts of a timing; None of what is missing."""
    return {f"{name}_{part}": getattr(found, part, None) for part in parts}
