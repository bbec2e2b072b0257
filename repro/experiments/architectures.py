"""What an architecture is: parameters by role, layers, output shapes, operations. Built without memory."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from repro import facts, registry
from repro.experiments.kind import Kind, of_kind
from repro.files import canonical_hash
from repro.records.result import Result
from repro.records.run import Outcome, Progress, Run
from repro.report.pooling import CODE, Pool, pool, setup_of, size_text
from repro.report.render import EMPTY, Row, Section, TableInfo, columns

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_CAPTION = (
    "One row is one network as built with its default number of classes. `params` counts weights, "
    "biases, batch-normalisation gamma and beta, frozen or not; GFLOPs are 2 x multiply-adds of one "
    "forward pass. `exact` says whether the parameters and the convolution layers (transposed ones not "
    "counted) equal those of the paper or of its official code to the last digit, and so do the "
    "trainable parameters where the official code freezes some."
)


class Architectures(Kind, tag="architectures", frozen=True):
    """Describe every architecture of the registry, in every variant."""

    RESULT: ClassVar[str] = "inspect"
    TABLES: ClassVar[tuple[TableInfo, ...]] = (TableInfo("architectures", "Architectures", (_CAPTION,)),)

    def networks_used(self) -> tuple[str, ...]:
        """Every architecture of the registry."""
        return tuple(registry.ARCHITECTURES)

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """A description a run; with nothing random about them, seeds number them as `cards` lists them."""
        for done, run in enumerate(runs, 1):
            name, variant = cards()[run.seed]
            card = describe(name, variant=variant)
            progress(done / len(runs), f"{name} {variant}")
            protocol = {
                "params": "weights, biases, batch-norm gamma and beta, frozen or not",
                "flops": "2 x multiply-adds of convolutions, deconvolutions and dense layers",
            }
            known: dict[str, Any] = {"model": name, "variant": variant, "input_size": tuple(card["input_shape"][:2])}
            yield Outcome(scale="paper", metrics=card, protocol=protocol, **known)

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """A row for each network beside what its paper has; what deviates, and where papers count otherwise, below."""
        shown = columns("id:row", "model", "paper", "variant", "width*", "input", "outputs", "params")
        shown += columns("paper_params:params, paper", "convs:conv layers ours / paper", "match:exact", "trainable")
        shown += (*columns("flops:GFLOPs", "deviations"), *CODE)
        pools = pool(of_kind(results, cls), _key)
        if not pools:
            return {}
        return {"architectures": [Section("", shown, tuple(map(_row, pools)), tuple(_notes(pools)))]}


def cards() -> list[tuple[str, str]]:
    """Every (architecture, variant) of the registry."""
    return [(entry.name, variant) for entry in registry.ARCHITECTURES.values() for variant in entry.variants]


def describe(name: str, **settings: Any) -> dict[str, Any]:
    """The contract of `repro describe`: name, paper, shapes, counts, deviations. Settings as for `registry.build`.

    Parameters count weights, biases, batch-norm gamma and beta, frozen or not; running statistics stand apart."""
    import keras

    from repro.tasks.networks import flops, image_shape, parameter_count, parameters

    entry = registry.architecture(name)
    with keras.StatelessScope(initialize_variables=False):
        model = registry.build(name, **settings)
    (roles, running), params = parameters(model), parameter_count(model)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    card = {
        "name": name,
        "task": entry.task,
        "paper": entry.paper,
        "variant": settings.get("variant") or entry.variants[0],
        "input_shape": list(image_shape(model)),
        "params": params,
        "params_by_role": roles,
        "trainable_params": params - roles["frozen"],
        "running_stats": running,
        "conv_layers": sum(not isinstance(layer, keras.layers.Conv2DTranspose) for layer in convolutions),
        "outputs": {key: list(tensor.shape[1:]) for key, tensor in model.output.items()},
        "flops": flops(model),
        "deviations": list(registry.module_of(name).DEVIATIONS),
    }
    # Keras keeps the empty variables in a list and would fill them all in the next stateless scope
    keras.utils.clear_session(free_memory=False)
    return card


def _key(r: Result) -> tuple[Any, ...]:
    return (r.model, r.variant, r.width, r.depth, r.input_size, canonical_hash(r.metrics))


def _printed(first: Result, name: str) -> facts.Fact | None:
    """What the papers have of a network: of its variant, or where that makes no difference of all of them."""
    return facts.find_fact(f"{first.model}.{first.variant}.{name}") or facts.find_fact(f"{first.model}.{name}")


def _row(entry: Pool) -> Row:
    first, metrics = entry.first, entry.first.metrics
    whole = first.width == first.depth == 1
    paper = {name: _printed(first, name) if whole else None for name in ("params", "conv_layers")}
    frozen = facts.find_fact(f"{first.model}.{first.variant}.trainable_params") if whole else None
    pairs = [(metrics[name], fact.value) for name, fact in paper.items() if fact]
    pairs += [(metrics["trainable_params"], frozen.value)] if frozen else []
    exact = ("yes" if all(ours == theirs for ours, theirs in pairs) else "no") if pairs else ""
    citation = facts.papers().get(metrics.get("paper", ""))
    convs = paper["conv_layers"].value if paper["conv_layers"] else EMPTY
    printed = facts.find_fact(f"{first.model}.params_printed") if whole else None
    setup, _ = setup_of(entry)
    cells = {"id": entry.row_id("A"), "model": first.model, "variant": first.variant, "match": exact}
    cells |= {"paper": f"{citation.authors[0].split()[-1]} {citation.year}" if citation else ""}
    cells |= {"width": setup["width"], "input": size_text(metrics["input_shape"]), "code": setup["code"]}
    cells["outputs"] = "; ".join(f"{name} {size_text(shape)}" for name, shape in metrics["outputs"].items())
    cells["paper_params"] = f"{paper['params'].value:,}" if paper["params"] else printed.value if printed else ""
    cells |= {"params": f"{metrics['params']:,}", "trainable": f"{metrics['trainable_params']:,}"}
    cells |= {"convs": f"{metrics['conv_layers']} / {convs}", "deviations": str(len(metrics["deviations"]))}
    cells["flops"] = f"{metrics['flops'] / 1e9:.2f}"
    values = {"model": first.model, "paper": metrics.get("paper"), "variant": first.variant, "width": first.width}
    for name in ("params", "trainable_params", "running_stats", "conv_layers", "flops"):
        values[name] = metrics.get(name)
    values |= {f"params_{role}": count for role, count in metrics.get("params_by_role", {}).items()}
    values |= {f"paper_{name}": fact.value if fact else None for name, fact in paper.items()}
    values |= {"exact": exact or None, **{name: cells[name] for name in ("input", "outputs", "deviations")}}
    return Row(cells["id"], cells, values | {"code": entry.code}, entry.files)


def _notes(pools: Sequence[Pool]) -> list[str]:
    """What deviates from the papers, and where their counts come from."""
    named = {f"{entry.first.model} ({entry.first.variant})": entry.first for entry in pools}
    told: dict[str, list[str]] = {}
    for entry in pools:
        for text in entry.first.metrics["deviations"]:
            told.setdefault(text, []).append(f"{entry.first.model} ({entry.first.variant})")
    notes = []
    for text, models in told.items():
        who = "every network" if set(models) == set(named) and len(named) > 1 else ", ".join(models)
        notes.append(f"Deviation of {who}: {text}.")
    for model in dict.fromkeys(entry.first.model for entry in pools):
        notes += _other_counts(model)
    found = {name: _printed(first, "params") for name, first in named.items()}
    sources = [f"{name}: {fact.source}" for name, fact in found.items() if fact]
    return notes + ([f"Where the papers' counts come from. {'. '.join(sources)}."] if sources else [])


def _other_counts(model: str) -> list[str]:
    """What a paper counts by a rule of its own, or prints rounded, so that no column can hold it."""
    layers, printed = facts.find_fact(f"{model}.layers"), facts.find_fact(f"{model}.params_printed")
    notes = [f"{model}: the paper counts {layers.value} layers, {layers.note}."] if layers else []
    return notes + ([f"{model}: the paper prints {printed.value} parameters; {printed.note}."] if printed else [])
