"""From the bytes of a `Batch` to the networks' inputs (SPEC section 1), on the device."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.conv import Dtype
from cocosnet_jax.settings import DataSettings
from cocosnet_jax.types import Batch

GLASSES = 16  # channel of x_A that `labels_glasses` fills from the second plane (SPEC section 1)


class Inputs(NamedTuple):
    """Network inputs, on the device.

    Attributes:
      image: x_B, the truth, in [-1, 1].
      exemplar: y_B in [-1, 1].
      semantics: x_A, (b, H, W, C), as what SPADE and the adaptors read.
      exemplar_semantics: the exemplar's map in the input domain, likewise.
      label, exemplar_label: (b, H, W) class maps, or None where the domain has no classes.
      self_reference: (b,), 1 where the exemplar is the image itself, distorted.
    """

    image: Float[Array, "b height width 3"]
    exemplar: Float[Array, "b height width 3"]
    semantics: Condition
    exemplar_semantics: Condition
    label: Int[Array, "b height width"] | None
    exemplar_label: Int[Array, "b height width"] | None
    self_reference: Float[Array, "b"]


def unit_image(image: Shaped[Array, "b height width 3"]) -> Float[Array, "b height width 3"]:
    """Bytes to [-1, 1]; floating images are taken as they are."""
    if jnp.issubdtype(image.dtype, jnp.floating):
        return jnp.asarray(image)
    return jnp.asarray(image, jnp.float32) / 127.5 - 1


def semantics(
    label: Shaped[Array, "b height width planes"], data: DataSettings, dtype: Dtype
) -> Condition:
    """x_A from the planes of `Batch.label` (SPEC section 1)."""
    if data.condition == "channels":
        if jnp.issubdtype(label.dtype, jnp.floating):
            return Condition(jnp.asarray(label, dtype))
        return Condition(jnp.asarray(label, dtype) / 255)
    nothing = jnp.zeros((*label.shape[:-1], 0), dtype)
    classes = Condition(nothing, label[..., 0].astype(jnp.int32), data.channels)
    if data.condition == "labels_glasses":
        glasses = jnp.asarray(label[..., 1], dtype)
        return Condition(classes.tensor().at[..., GLASSES].set(glasses))
    return classes


def encode(batch: Batch, data: DataSettings) -> Inputs:
    """Returns what the networks take, from what the pipeline carries."""
    pictures, exemplars, label, exemplar_label, self_reference = map(jnp.asarray, batch)
    image = unit_image(pictures)
    has_classes = data.condition != "channels"
    return Inputs(
        image,
        unit_image(exemplars),
        semantics(label, data, image.dtype),
        semantics(exemplar_label, data, image.dtype),
        label[..., 0].astype(jnp.int32) if has_classes else None,
        exemplar_label[..., 0].astype(jnp.int32) if has_classes else None,
        self_reference.astype(image.dtype),
    )
