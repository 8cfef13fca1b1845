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
      exemplar: y_B in [-1, 1]; in a blend, the r exemplars of each input in a row.
      semantics: x_A, the input's map in the input domain, with C channels.
      exemplar_semantics: the exemplar's map in the input domain, with C channels.
      label, exemplar_label: (b, H, W), class maps; None if the domain has no classes.
      self_reference: (b,), 1 where the exemplar is the image itself, distorted.
    """

    image: Float[Array, "b height width 3"]
    exemplar: Float[Array, "b_r height width 3"]
    semantics: Condition
    exemplar_semantics: Condition
    label: Int[Array, "b height width"] | None
    exemplar_label: Int[Array, "b_r height width"] | None
    self_reference: Float[Array, "b"]


def batch_shapes(data: DataSettings, batch_size: int, accumulate: int = 1) -> Batch:
    """Shapes and types (`jax.ShapeDtypeStruct`) of a batch of the data pipeline.

    With `accumulate` above 1, those of the training step's small batches (`mesh.to_global`).
    """
    rows = (batch_size,) if accumulate == 1 else (accumulate, batch_size // accumulate)

    def shape(dtype: Any, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct((*rows, *sizes), dtype)

    image = shape(np.uint8, data.image_size, data.image_size, 3)
    label = shape(np.uint8, data.image_size, data.image_size, data.planes)
    return Batch(image, image, label, label, shape(np.float32))


def random_batch(data: DataSettings, batch_size: int, seed: int = 0) -> Batch:
    """A batch of noise in all values of its bytes; no sample is its own exemplar."""
    rng = np.random.default_rng(seed)
    # Number of values, of each plane if they differ.
    values = {"labels": data.channels, "labels_glasses": [data.channels, 2], "channels": 256}

    def noise(high: Any, planes: int) -> np.ndarray:
        sizes = batch_size, data.image_size, data.image_size, planes
        return rng.integers(0, high, sizes, np.uint8)

    return Batch(
        image=noise(256, 3),
        exemplar=noise(256, 3),
        label=noise(values[data.condition], data.planes),
        exemplar_label=noise(values[data.condition], data.planes),
        self_reference=np.zeros(batch_size, np.float32),
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
    image_bytes, exemplar, label, exemplar_label, self_reference = map(jnp.asarray, batch[:5])
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
