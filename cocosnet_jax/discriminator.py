"""Two PatchGAN discriminators, the second on the image at half size (SPEC section 5)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cocosnet_jax.nn.activation import leaky_relu
from cocosnet_jax.nn.blocks import NonLocalBlock
from cocosnet_jax.nn.conv import Conv, Dtype
from cocosnet_jax.nn.convolution import convolve
from cocosnet_jax.nn.norms import instance_norm

SCALES = 2


def halve(x: Float[Array, "b height width k"]) -> Float[Array, "b h w k"]:
    """3x3 average pooling with stride 2 and padding 1; padding is left out of the averages.

    It computes in float32 or wider.
    """

    def inside(size: int) -> np.ndarray:
        starts = np.arange(0, size, 2) - 1
        return np.minimum(starts + 3, size) - np.maximum(starts, 0)

    # NumPy computes the divisors: XLA would spend minutes on folding them.
    counts = np.outer(inside(x.shape[1]), inside(x.shape[2]))[..., None]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = nn.avg_pool(wide, (3, 3), (2, 2), ((1, 1), (1, 1)))
    return (mean * jnp.asarray(9 / counts, wide.dtype)).astype(x.dtype)


class PatchDiscriminator(nn.Module):
    """Five convolutions, of which the last yields logits of overlapping patches.

    Attributes: see `Discriminator`.
    """

    base_filters: int
    non_local: bool = True
    spectral_everywhere: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        semantics: Float[Array, "b height width classes"],
        images: Float[Array, "b_images height width 3"],
        *,
        train: bool,
    ) -> list[Float[Array, "b_images _ _ _"]]:
        """Returns the outputs of the five layers; see `Discriminator`."""
        f = self.base_filters
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
                spectral=self.spectral_everywhere or not plain,
                dtype=self.dtype,
                name=f"conv_{i}",
            )
            x = conv(x, train=train) if i else _convolve_first(conv, semantics, images, train)
            if not plain:
                x = instance_norm(x)
            if i < last:
                x = leaky_relu(x)
            features.append(x)
            if i == 2 and self.non_local:
                x = NonLocalBlock(self.dtype, name="attention")(x, train=train)
        return features


def _convolve_first(
    conv: Conv,
    semantics: Float[Array, "b height width classes"],
    images: Float[Array, "b_images height width 3"],
    train: bool,
) -> Float[Array, "b_images h w k"]:
    """Convolves [semantics, image] for every image, but shared semantics only once."""
    classes, repeats = semantics.shape[-1], len(images) // len(semantics)
    weights = conv.weights(classes + images.shape[-1], train=train)
    dtype = conv.dtype or jnp.result_type(images, weights.kernel)

    def product(kernel: Float[Array, "4 4 channels k"]) -> Float[Array, "b_images h w k"]:
        parts = (semantics, kernel[:, :, :classes]), (images, kernel[:, :, classes:])
        of_semantics, of_images = (
            convolve(x.astype(dtype), part, conv.stride, 1) for x, part in parts
        )
        return of_images + jnp.repeat(of_semantics, repeats, 0)

    return weights.convolve(product, dtype, divide_output=False)


class Discriminator(nn.Module):
    """Patch discriminators of [x_A, image] at two scales.

    Attributes:
      base_filters: output channels of the first layer.
      non_local: whether there is a non-local block after the third layer.
      spectral_everywhere: whether the first and the last layer have spectral norm, too.
      dtype: of the activations.
    """

    base_filters: int
    non_local: bool = True
    spectral_everywhere: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        semantics: Float[Array, "b height width classes"],
        images: Float[Array, "b_images height width 3"],
        *,
        train: bool,
    ) -> list[list[Float[Array, "b_images _ _ _"]]]:
        """Classifies images as real or fake.

        Args:
          semantics: x_A.
          images: one or more consecutive images for each x_A.
          train: whether norms use and update spectral vectors.

        Returns:
          The outputs of the five layers at each scale; the last are the logits.
        """
        if self.dtype is not None:
            # Once, not at each scale: three channels take the memory of 128 on TPUs. So the second
            # scale rounds twice.
            images = images.astype(self.dtype)
        results = []
        for scale in range(SCALES):
            if scale:
                semantics, images = halve(semantics), halve(images)
            patches = PatchDiscriminator(
                self.base_filters,
                self.non_local,
                self.spectral_everywhere,
                self.dtype,
                name=f"scale_{scale}",
            )
            results.append(patches(semantics, images, train=train))
        return results
