"""What an architecture is: parameters by role, layers, output shapes, operations. Built without memory."""

from collections.abc import Callable
from typing import Any

import keras

from repro import registry
from repro.harness.run import Job, Run


def describe(name: str, **settings: Any) -> dict[str, Any]:
    """The contract of `repro describe`: name, paper, shapes, counts, deviations. Settings as for `registry.build`.

    Parameters count weights, biases, batch-norm gamma and beta, frozen or not; running statistics stand apart."""
    entry = registry.architecture(name)
    with keras.StatelessScope(initialize_variables=False):
        model = registry.build(name, **settings)
    roles, running = parameters(model)
    params = parameter_count(roles)
    convolutions = [layer for layer in model.layers if _is_convolution(layer)]
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
        "conv_layers": len(convolutions),
        "outputs": {key: list(tensor.shape[1:]) for key, tensor in model.output.items()},
        "flops": sum(flops_of(layer) for layer in model.layers),
        "deviations": list(registry.module_of(name).DEVIATIONS),
    }
    # Keras keeps the empty variables in a list and would fill them all in the next stateless scope
    keras.utils.clear_session(free_memory=False)
    return card


def image_shape(model: keras.Model) -> tuple[int, int, int]:
    """(height, width, channels) of the images a network takes, alone or beside boxes."""
    return next(tuple(tensor.shape[1:]) for tensor in model.inputs if tensor.name == "image")


def parameters(model: keras.Model) -> tuple[dict[str, int], int]:
    """(number of parameters by role, where "frozen" counts some again; number of running statistics)."""
    roles = {"weights": 0, "biases": 0, "bn_gamma": 0, "bn_beta": 0, "frozen": 0}
    running = 0
    for layer in model.layers:
        for variable in layer.weights:
            count = _elements(variable.shape)
            if variable.name.startswith("moving_"):
                running += count
                continue
            roles[_role(variable.name)] += count
            roles["frozen"] += 0 if variable.trainable else count
    return roles, running


def parameter_count(roles: dict[str, int]) -> int:
    """Parameters as papers count them: weights, biases, batch-norm gamma and beta, frozen or not."""
    return sum(count for role, count in roles.items() if role != "frozen")


def _is_convolution(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Conv2D) and not isinstance(layer, keras.layers.Conv2DTranspose)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _role(variable: str) -> str:
    return {"bias": "biases", "gamma": "bn_gamma", "beta": "bn_beta"}.get(variable, "weights")


def flops_of(layer: keras.layers.Layer) -> int:
    """Floating-point operations of one image: 2 x multiply-adds of convolutions and dense layers.

    A layer that sees each region of an image says in its attribute `regions` how many there are."""
    return _flops_of_one(layer) * getattr(layer, "regions", 1)


def _flops_of_one(layer: keras.layers.Layer) -> int:
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return 2 * _elements(layer.kernel.shape) * _elements(layer.input.shape[1:3])
    if isinstance(layer, keras.layers.Conv2D):
        return 2 * _elements(layer.kernel.shape) * _elements(layer.output.shape[1:3])
    if isinstance(layer, keras.layers.Dense):
        return 2 * _elements(layer.kernel.shape) * _elements(layer.output.shape[1:-1])
    return 0


def cards() -> list[tuple[str, str]]:
    """Every (architecture, variant) of the registry."""
    return [(entry.name, variant) for entry in registry.ARCHITECTURES.values() for variant in entry.variants]


def inspect_all(job: Job, progress: Callable[[float, str], None]) -> None:
    """One result for every architecture and variant; with nothing random about them, seeds number them."""
    for done, number in enumerate(job.seeds, 1):
        name, variant = cards()[number]
        run = Run(job, number)
        card = describe(name, variant=variant)
        run.finish(
            scale="paper",
            metrics=card,
            protocol={
                "params": "weights, biases, batch-norm gamma and beta, frozen or not",
                "flops": "2 x multiply-adds of convolutions, deconvolutions and dense layers",
            },
            model=name,
            variant=variant,
            input_size=tuple(card["input_shape"][:2]),
        )
        progress(done / len(job.seeds), f"{name} {variant}")
