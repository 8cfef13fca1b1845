"""Two PatchGAN discriminators, the second on the halved picture (SPEC section 5)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cocosnet_jax.nn.blocks import NonLocalBlock
from cocosnet_jax.nn.conv import Conv, Dtype, convolve
from cocosnet_jax.nn.norms import instance_norm
from cocosnet_jax.nn.spade import leaky_relu
from cocosnet_jax.settings import ModelSettings

SCALES = 2


def halve(x: Float[Array, "b height width k"]) -> Float[Array, "b h w k"]:
    """3x3 average pooling with stride 2 and padding 1; padding is not counted."""

    def inside(size: int) -> np.ndarray:
        starts = np.arange(0, size, 2) - 1
        return np.minimum(starts + 3, size) - np.maximum(starts, 0)

    # The divisors are known now: XLA would spend minutes to find them.
    counts = np.outer(inside(x.shape[1]), inside(x.shape[2]))[..., None]
    mean = nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    return mean * jnp.asarray(9 / counts, x.dtype)


class PatchDiscriminator(nn.Module):
    """Five convolutions; the last one's output are logits of overlapping patches."""

    settings: ModelSettings
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        semantics: Float[Array, "b height width classes"],
        images: Float[Array, "b_images height width 3"],
        *,
        train: bool,
    ) -> list[Float[Array, "b_images _ _ _"]]:
        """See `Discriminator`; returns the five layers' outputs."""
        s, f = self.settings, self.settings.base_filters
        features = []
        x = images
        layers = ((f, 2), (2 * f, 2), (4 * f, 2), (8 * f, 1), (1, 1))
        last = len(layers) - 1
        for i, (width, stride) in enumerate(layers):
            plain = i in (0, last)
            conv = Conv(
                width,
                4,
                stride,
                1,
                use_bias=plain,
                spectral=s.spectral_everywhere or not plain,
                dtype=self.dtype,
                name=f"conv_{i}",
            )
            x = conv(x, train=train) if i else _convolve_both(conv, semantics, images, train)
            if not plain:
                x = instance_norm(x)
            if i < last:
                x = leaky_relu(x)
            features.append(x)
            if i == 2 and s.non_local:
                x = NonLocalBlock(self.dtype, name="attention")(x, train=train)
        return features


def _convolve_both(
    conv: Conv,
    semantics: Float[Array, "b height width classes"],
    images: Float[Array, "b_images height width 3"],
    train: bool,
) -> Float[Array, "b_images h w k"]:
    """`conv` of [semantics, image] for every image; the semantics are convolved once."""
    classes, each = semantics.shape[-1], len(images) // len(semantics)
    weights = conv.weights(classes + images.shape[-1], train=train)
    dtype = conv.dtype or jnp.result_type(images, weights.kernel)

    def of(kernel: Float[Array, "4 4 channels k"]) -> Float[Array, "b_images h w k"]:
        parts = (semantics, kernel[:, :, :classes]), (images, kernel[:, :, classes:])
        shared, own = (convolve(x.astype(dtype), part, conv.stride, 1) for x, part in parts)
        return own + jnp.repeat(shared, each, 0)

    return weights.convolve(of, dtype, divide_output=False)


class Discriminator(nn.Module):
    """Features and logits of [x_A, image] at both scales."""

    settings: ModelSettings
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        semantics: Float[Array, "b height width classes"],
        images: Float[Array, "b_images height width 3"],
        *,
        train: bool,
    ) -> list[list[Float[Array, "b_images _ _ _"]]]:
        """Judges images, as many for each x_A, one behind another.

        Returns:
          Per scale the five layers' outputs; the last are the logits.
        """
        results = []
        for scale in range(SCALES):
            if scale:
                semantics, images = halve(semantics), halve(images)
            module = PatchDiscriminator(self.settings, self.dtype, name=f"scale_{scale}")
            results.append(module(semantics, images, train=train))
        return results
