"""How long a network takes: eager, traced and compiled; forward and training; one image and the best batch."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from repro import backend, facts, registry
from repro.engine.bench import best_throughput
from repro.engine.timing import PROTOCOL, bind, measure
from repro.experiments.kind import of_kind
from repro.experiments.timed import Timed
from repro.records.result import Result, Xla
from repro.records.run import Progress
from repro.records.settings import Network
from repro.report import pooling
from repro.report.cards import SPEED, headline_row, ratio_of, repetitions, speed_row
from repro.report.readme import best_pools
from repro.report.render import Row, Section, TableInfo, columns, number

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_CAPTION = (
    "Times are medians over n repetitions after warm-up, with the 5th to 95th percentile in parentheses; the device is "
    "synchronised, and compile time is measured apart. Rows pool machines with the same accelerator (or CPU) and "
    "driver, never another: median of the runs' medians, lowest p5, highest p95. Latency is one forward pass. Eager "
    "runs operation by operation, graph is `tf.function`, XLA is one compiled program; JAX has no graph mode, so that "
    "these cells stay open. Scale `paper` is the whole network at its paper's input size."
)
_TIMED = (
    "uint8-range float images on the device to class scores; the train step also copies its batch to the device and "
    "reads the loss"
)
_LETTER = "X"
_INFERENCE = (
    *columns(*SPEED, "batch*", "latency.eager:eager ms", "latency.graph:graph ms", "latency.xla:XLA ms", "n"),
    *columns("speedup_graph_over_xla:graph/XLA", "compile.graph:graph compile s", "compile.xla:XLA compile s"),
    *columns("throughput:XLA images/s", "memory_mib:peak MiB"),
)
_TRAINING = (
    *columns(*SPEED, "train_batch:batch*", "train_step.graph:graph step ms", "train_step.xla:XLA step ms", "step_n:n"),
    *columns("step_speedup_graph_over_xla:graph/XLA", "compile_train.graph:graph compile s"),
    *columns("compile_train.xla:XLA compile s", "step_memory_mib:peak MiB"),
)


class Speed(Timed, tag="speed", kw_only=True, frozen=True):
    """Time a network with random weights: forward pass and train step, by mode, and the best batch."""

    TABLES: ClassVar[tuple[TableInfo, ...]] = (TableInfo("xla", "Eager, graph and XLA", (_CAPTION,)),)

    network: Network
    modes: tuple[str, ...] = ("eager", "graph", "xla")
    batches: tuple[int, ...] = (1, 2, 4)
    train_batch: int = 1

    def measure(self, progress: Progress) -> dict[str, Any]:
        """Forward pass, best batch, then train step."""
        from repro.tasks.networks import build, inference_part

        entry = registry.architecture(self.network.name)
        trained = build(self.network, entry.num_classes, heads="train")
        network = inference_part(trained)
        modes = tuple(mode for mode in self.modes if mode != "graph" or backend.name() == "tensorflow")
        memory: dict[str, float] = {}

        def given(mode: str, batch: int) -> Callable[[], Any]:
            return bind(backend.forward(network, mode), backend.to_device(_images(batch, network)))

        calls = {mode: given(mode, 1) for mode in modes}
        compile_cost, latency = measure(calls, self.warmup, self.repetitions, self.seconds)
        timings = {f"latency.{mode}": timing for mode, timing in latency.items()}
        timings |= {f"compile.{mode}": timing for mode, timing in compile_cost.items() if mode != "eager"}
        memory["forward"] = backend.peak_memory_mib()
        progress(0.4, "forward timed")

        timings["throughput.xla"], best = best_throughput(
            lambda batch: given("xla", batch), self.batches, self.seconds, self.repetitions
        )
        memory["throughput"] = backend.peak_memory_mib()
        progress(0.7, "throughput timed")

        steps = {mode: self._train_step(trained, mode) for mode in modes if mode != "eager"}
        compile_cost, latency = measure(steps, self.warmup, self.repetitions, self.seconds)
        timings |= {f"train_step.{mode}": timing for mode, timing in latency.items()}
        timings |= {f"compile_train.{mode}": timing for mode, timing in compile_cost.items()}
        memory["train"] = backend.peak_memory_mib()
        return dict(
            scale=self.scale(),
            metrics={
                "batch": 1,
                "train_batch": self.train_batch,
                "throughput_batch": best,
                "peak_memory_mib": {name: round(value, 1) for name, value in memory.items()},
                "num_classes": self.network.num_classes or entry.num_classes,
            },
            protocol=PROTOCOL | {"timed region": _TIMED},
            timings=timings,
            xla=Xla(requested=True, used="xla" in modes),
            peak_memory_mib=round(memory["train"], 1),
        )

    def _train_step(self, network: Any, mode: str) -> Callable[[], Any]:
        """One SGD step on a random batch, compiled or only traced."""
        import keras

        from repro.tasks.learners import Learner

        learner = Learner(network, registry.module_of(self.network.name).loss, {}, None)
        learner.compile(optimizer=keras.optimizers.SGD(1e-6, momentum=0.9), jit_compile=mode == "xla")
        images = _images(self.train_batch, network).astype("uint8")
        if registry.architecture(self.network.name).task == "segmentation":
            labels: dict[str, np.ndarray] = {"semantic": np.zeros(images.shape[:3], "uint8")}
        else:
            labels = {"label": np.zeros(len(images), "int32")}
        return lambda: learner.train_on_batch({"image": images, **labels})

    def scale(self) -> str:
        """The whole network at its paper's input size is "paper", whole at another size "reduced", else "smoke"."""
        if self.network.width < 1 or self.network.depth < 1:
            return "smoke"
        size = registry.architecture(self.network.name).input_size
        return "paper" if (self.network.input_size or size) == size else "reduced"

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """Inference and training step, by scale, and what the FCN paper printed."""
        sections: list[Section] = []
        for scale, chosen in pooling.by_scale(pooling.speed_pools(of_kind(results, cls))):
            rows, notes = list(map(_row, chosen)), pooling.protocol_notes(chosen, _LETTER)
            missed = [e.row_id(_LETTER) for e in chosen if any(r.xla.requested and not r.xla.used for r in e.results)]
            notes += [f"XLA was asked for and did not run in {', '.join(missed)}."] if missed else []
            notes += [] if sections else [_published_latency()]
            sections.append(Section(pooling.heading(scale, "Inference"), _INFERENCE, rows, notes))
            if steps := [row for row in rows if row.cells["step_n"]]:
                sections.append(Section(pooling.heading(scale, "Training step"), _TRAINING, steps, csv=False))
        return {"xla": sections}

    @classmethod
    def headline(cls, results: Sequence[Result]) -> list[list[str]]:
        """The latency of each model on each kind of machine."""

        def same(entry: pooling.Pool) -> tuple[str, str]:
            return pooling.model_title(entry.first), pooling.hardware(entry.first.machine)

        rows, modes = [], {"XLA": "latency.xla", "graph": "latency.graph", "eager": "latency.eager"}
        for entry in best_pools(pooling.speed_pools(of_kind(results, cls)), same):
            first, (title, _) = entry.first, same(entry)
            where = f"{pooling.size_text(first.input_size)}, batch {first.metrics.get('batch', 1)}"
            rows += headline_row(entry, _LETTER, title, where, f"width {first.width:g}", modes)
        return rows


def _images(batch: int, network: Any) -> np.ndarray:
    from repro.tasks.networks import image_shape

    return np.random.default_rng(0).uniform(0, 255, (batch, *image_shape(network))).astype("float32")


def _row(entry: pooling.Pool) -> Row:
    forward, step = [[f"{kind}.{mode}" for mode in ("graph", "xla")] for kind in ("latency", "train_step")]
    compiles = [f"{kind}.{mode}" for kind in ("compile", "compile_train") for mode in ("graph", "xla")]
    row, timings = speed_row(entry, _LETTER, ("latency.eager", *forward, *step, *compiles, "throughput.xla"))
    metrics = entry.first.metrics
    row.cells |= {"batch": str(metrics.get("batch", 1)), "train_batch": str(metrics.get("train_batch", ""))}
    row.cells["n"] = repetitions(timings[name] for name in ("latency.eager", *forward))
    row.cells["step_n"] = repetitions(timings[name] for name in step)
    for name, (graph, xla) in (("speedup", forward), ("step_speedup", step)):
        row.put(f"{name}_graph_over_xla", ratio_of(timings[graph], timings[xla]), ".2f")
    if timings["throughput.xla"]:
        row.cells["throughput"] = f"{number(timings['throughput.xla'].median)} (batch {metrics['throughput_batch']})"
        row.values["throughput_batch"] = metrics["throughput_batch"]
    for name, keys in (("memory", ("latency.xla", "forward")), ("step_memory", ("train_step.xla", "train"))):
        peaks = [r.metrics.get("peak_memory_mib", {}).get(key) for r in entry.results for key in keys]
        row.put(f"{name}_mib", max(filter(None, peaks), default=None), ".0f")
    row.values["peak_memory_mib"] = max((r.peak_memory_mib for r in entry.results if r.peak_memory_mib), default=None)
    return row


def _published_latency() -> str:
    found = [facts.paper_value("fcn", key) for key in ("fcn8s.latency", "fcn_vgg16.latency_500x500")]
    parts = [f"{fact.note.split(';')[0]} {fact.value} {fact.unit} ({fact.source})" for fact in found]
    return f"For orientation, the FCN paper printed on a Tesla K40c: {', '.join(parts)}."
