"""The translation as a function that runs without this package.

In the format of `jax.export`, for several platforms and any number of pictures at once; and as ONNX
graph, by jax2onnx, for one picture.
"""

import contextlib
import importlib.metadata
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Float, UInt8

from cocosnet_jax import __version__, steps, weights_file
from cocosnet_jax.data.classes import class_names
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState
from cocosnet_jax.types import Array, Batch

PLATFORMS = ("cpu", "cuda", "tpu")


def input_names(settings: Settings) -> list[str]:
    """The inputs of these networks, in their order."""
    names = ["label"]
    if settings.model.needs_exemplar:
        names.append("exemplar")
        if settings.model.needs_exemplar_label:
            names.append("exemplar_label")
    return names


def translation(settings: Settings) -> Callable[..., dict[str, Float[Array, "b rows columns 3"]]]:
    """The translation as a function of plain arrays.

    Returns:
      A function of the weights by their names (`weights_file.arrays_of`), and of the arrays that
      `input_names` lists, (b, S, S, p) uint8 as in `types.Batch`. It returns `image` and, if there
      is an exemplar, `warped_exemplar`, as in `types.Outputs`.
    """
    # JAX cannot lower the kernels for any number of pictures.
    plain = replace(settings.model, modulation="plain")
    if plain.correlation == "pallas":
        plain = replace(plain, correlation="streaming")
    settings = replace(settings, model=plain)
    predict = steps.predict_step(settings)
    names = input_names(settings)

    def translate(
        weights: dict[str, Array], *arrays: UInt8[Array, "b rows columns planes"]
    ) -> dict[str, Float[Array, "b rows columns 3"]]:
        given = dict(zip(names, arrays, strict=True))
        label = given["label"]
        unread = jnp.zeros((*label.shape[:3], 3), jnp.uint8)
        batch = Batch(
            image=unread,
            exemplar=given.get("exemplar", unread),
            label=label,
            exemplar_label=given.get("exemplar_label", label),
            self_reference=jnp.zeros(label.shape[0]),
        )
        outputs = predict(weights_file.state_of(weights, jnp.zeros((), jnp.int32)), batch)
        found = {"image": outputs.image}
        if outputs.warped_exemplar is not None:
            found["warped_exemplar"] = outputs.warped_exemplar
        return found

    return translate


def _shapes(settings: Settings, size: int, count: Any) -> list[jax.ShapeDtypeStruct]:
    planes = {"exemplar": 3}
    return [
        jax.ShapeDtypeStruct((count, size, size, planes.get(name, settings.data.planes)), np.uint8)
        for name in input_names(settings)
    ]


def lower(settings: Settings, state: TrainState, size: int) -> export.Exported:
    """Lowers `translation` for all `PLATFORMS` and any number of pictures.

    Args:
      settings: of a checkpoint.
      state: its weights; only their names and shapes are used.
      size: S.
    """
    [count] = export.symbolic_shape("b")
    weights = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights_file.arrays_of(state)
    )
    lowered = export.export(jax.jit(translation(settings)), platforms=PLATFORMS)
    return lowered(weights, *_shapes(settings, size, count))


@contextlib.contextmanager
def simple_operations() -> Iterator[None]:
    """While tracing, replaces operations that jax2onnx 0.17.1 does not convert by equal ones.

    It does not know the choice by platform, and it makes poolings over four dimensions, which
    onnxruntime refuses. JAX's caches are cleared, because it would use earlier traces again.
    """

    def default(*arguments: Array, default: Callable[..., Any], **_: Callable[..., Any]) -> Any:
        return default(*arguments)

    def blocks(x: Float[Array, "b h w c"], window: tuple[int, int]) -> Float[Array, "..."]:
        b, h, w, c = x.shape
        high, wide = window
        return x.reshape(b, h // high, high, w // wide, wide, c)

    def max_pool(x: Array, window: tuple[int, int], _: tuple[int, int]) -> Array:
        return blocks(x, window).max((2, 4))

    def avg_pool(x: Array, window: tuple[int, int], _: tuple[int, int]) -> Array:
        return blocks(x, window).mean((2, 4))

    with (
        mock.patch.object(jax.lax, "platform_dependent", default),
        mock.patch.object(nn, "max_pool", max_pool),
        mock.patch.object(nn, "avg_pool", avg_pool),
    ):
        jax.clear_caches()
        yield
    jax.clear_caches()


def to_onnx(settings: Settings, state: TrainState, size: int) -> bytes:
    """Converts `translation` of one picture, with its weights, to the content of an ONNX file.

    Args:
      settings: of a checkpoint.
      state: its weights.
      size: S.

    Raises:
      UserError: jax2onnx is not installed, or cannot convert it.
    """
    # It warns of each of its own examples that does not import.
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)
    try:
        import jax2onnx
    except ImportError as error:
        raise UserError(
            f"--onnx needs jax2onnx ({error}); docs/export.md says how to install it"
        ) from error
    weights = jax.tree.map(np.asarray, weights_file.arrays_of(state))
    shapes = _shapes(settings, size, 1)

    def translate(*arrays: Array) -> list[Array]:
        return list(translation(settings)(weights, *arrays).values())

    with simple_operations():
        traced = jax.make_jaxpr(translate)(*shapes)
    try:
        model = jax2onnx.to_onnx(
            jaxpr_as_fun(traced),
            inputs=shapes,
            model_name="cocosnet",
            input_names=input_names(settings),
            output_names=[output["name"] for output in describe(settings, size, 0)["outputs"]],
        )
    # It uses internals of JAX, so that another version of JAX can raise any error.
    except Exception as error:
        version = importlib.metadata.version("jax2onnx")
        raise UserError(
            f"jax2onnx {version} cannot convert this model with jax {jax.__version__}"
            f" ({type(error).__name__}: {error}); docs/export.md says which versions do"
        ) from error
    return model.SerializeToString()


def describe(settings: Settings, size: int, step: int) -> dict[str, Any]:
    """The content of `model.json`."""
    data = settings.data
    meanings = {
        "labels": "the class number of each pixel",
        "labels_glasses": "plane 0: the class number of each pixel; plane 1: 1 on glasses, else 0",
        "channels": "the planes that docs/export.md says how to make; 0 to 255 stand for 0 to 1",
    }
    highest = 255 if data.condition == "channels" else data.channels - 1
    label = {"planes": data.planes, "range": [0, highest], "meaning": meanings[data.condition]}
    exemplar = {"planes": 3, "range": [0, 255], "meaning": "red, green, blue"}
    of_input = {"label": label, "exemplar": exemplar, "exemplar_label": label}
    picture = {"shape": ["b", size, size, 3], "dtype": "float32", "range": [-1, 1]}
    outputs = {"image": "the translation: red, green, blue; (x + 1) * 127.5 is a byte"}
    if "exemplar" in input_names(settings):
        outputs["warped_exemplar"] = "the exemplar, warped to the input; values as in image"
    classes = class_names(data) if data.condition != "channels" else ()
    return {
        "size": size,
        "step": step,
        "dataset": data.dataset,
        "platforms": PLATFORMS,
        "cocosnet_jax": __version__,
        "jax": jax.__version__,
        "inputs": [
            {
                "name": name,
                "shape": ["b", size, size, of_input[name]["planes"]],
                "dtype": "uint8",
                "range": of_input[name]["range"],
                "meaning": of_input[name]["meaning"],
            }
            for name in input_names(settings)
        ],
        "outputs": [
            {"name": name, **picture, "meaning": meaning} for name, meaning in outputs.items()
        ],
        "classes": dict(enumerate(classes)),
    }
