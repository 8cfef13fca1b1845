"""Turns the bytes of a `Batch` into inputs of the networks, on the device (SPEC section 1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.conv import Dtype
from cocosnet_jax.settings import DataSettings
from cocosnet_jax.types import Batch

GLASSES = 16  # channel of x_A for the mask of glasses, with `labels_glasses` (SPEC section 1)


class Inputs(NamedTuple):
    """A batch in the form that the networks take.

    Attributes:
      image: the truth x_B in [-1, 1].
      exemplar: y_B in [-1, 1].
      semantics: x_A, the input's map in the input domain, with C channels.
      exemplar_semantics: the exemplar's map in the input domain, with C channels.
      label, exemplar_label: (b, H, W), class maps; None if the domain has no classes.
      self_reference: (b,), 1 where the exemplar is the image itself, distorted.
    """

    image: Float[Array, "b height width 3"]
    exemplar: Float[Array, "b height width 3"]
    semantics: Condition
    exemplar_semantics: Condition
    label: Int[Array, "b height width"] | None
    exemplar_label: Int[Array, "b height width"] | None
    self_reference: Float[Array, "b"]


def batch_shapes(data: DataSettings, batch_size: int) -> Batch:
    """Shapes and types (`jax.ShapeDtypeStruct`) of a batch that the data pipeline makes."""

    def planes(count: int) -> Any:
        shape = (batch_size, data.image_size, data.image_size, count)
        return jax.ShapeDtypeStruct(shape, np.uint8)

    image, label = planes(3), planes(data.planes)
    return Batch(image, image, label, label, jax.ShapeDtypeStruct((batch_size,), np.float32))


def random_batch(data: DataSettings, batch_size: int, seed: int = 0) -> Batch:
    """A batch of noise, all classes included, of which no sample is its own exemplar."""
    rng = np.random.default_rng(seed)
    values = {"labels": data.channels, "labels_glasses": [data.channels, 2], "channels": 256}
    shapes = batch_shapes(data, batch_size)

    def noise(high: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        return rng.integers(0, high, shape.shape, np.uint8)

    return Batch(
        noise(256, shapes.image),
        noise(256, shapes.exemplar),
        noise(values[data.condition], shapes.label),
        noise(values[data.condition], shapes.exemplar_label),
        np.zeros(batch_size, np.float32),
    )


def unit_image(image: Shaped[Array, "b height width 3"]) -> Float[Array, "b height width 3"]:
    """Converts bytes to [-1, 1]; floating images are returned unchanged."""
    if jnp.issubdtype(image.dtype, jnp.floating):
        return jnp.asarray(image)
    return jnp.asarray(image, jnp.float32) / 127.5 - 1


def semantics(
    label: Shaped[Array, "b height width planes"], data: DataSettings, dtype: Dtype
) -> Condition:
    """Converts the planes of `Batch.label` to x_A (SPEC section 1)."""
    if data.condition == "channels":
        if jnp.issubdtype(label.dtype, jnp.floating):
            return Condition(jnp.asarray(label, dtype))
        return Condition(jnp.asarray(label, dtype) / 255)
    no_dense_channels = jnp.zeros((*label.shape[:-1], 0), dtype)
    classes = Condition(no_dense_channels, label[..., 0].astype(jnp.int32), data.channels)
    if data.condition == "labels_glasses":
        glasses = jnp.asarray(label[..., 1], dtype)
        return Condition(classes.tensor().at[..., GLASSES].set(glasses))
    return classes


def encode(batch: Batch, data: DataSettings) -> Inputs:
    """Converts a batch of the data pipeline to the networks' inputs."""
    image_bytes, exemplar, label, exemplar_label, self_reference = map(jnp.asarray, batch)
    image = unit_image(image_bytes)
    has_classes = data.condition != "channels"
    return Inputs(
        image,
        unit_image(exemplar),
        semantics(label, data, image.dtype),
        semantics(exemplar_label, data, image.dtype),
        label[..., 0].astype(jnp.int32) if has_classes else None,
        exemplar_label[..., 0].astype(jnp.int32) if has_classes else None,
        self_reference.astype(image.dtype),
    )
