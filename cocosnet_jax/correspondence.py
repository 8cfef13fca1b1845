"""The cross-domain correspondence network: from input and exemplar to features that compare.

Paper section 3.1 and supplement Table 1; SPEC section 3.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from cocosnet_jax.nn import remat
from cocosnet_jax.nn.blocks import ResidualBlock
from cocosnet_jax.nn.condition import Condition, convolve_condition
from cocosnet_jax.nn.conv import Conv, Dtype
from cocosnet_jax.nn.interleave import interleave, separate
from cocosnet_jax.nn.norms import instance_norm, unit_length
from cocosnet_jax.nn.spade import SpadeBlock, leaky_relu
from cocosnet_jax.settings import ModelSettings

NOISE_DEVIATION = 0.01  # of the noise that takes a mask's place


class DomainAdaptor(nn.Module):
    """F_A or F_B: one domain to the shared domain S at 1 / stride of the size (equations 1, 2)."""

    settings: ModelSettings
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, condition: Condition, *, train: bool) -> Float[Array, "b h w k"]:
        """Returns (b, H / s, W / s, 4f), before the normalisation over channels."""
        s = self.settings
        f, k = s.base_filters, s.adaptor_kernel
        fourth = (k, 2) if s.warp_stride == 4 else (3, 1)
        layers = ((f, 3, 1), (2 * f, k, 2), (4 * f, 3, 1), (8 * f, *fourth), (8 * f, 3, 1))

        def convolutions(module: "DomainAdaptor", condition: Condition) -> Float[Array, "b h w k"]:
            for i, (features, kernel, stride) in enumerate(layers, 1):
                conv = Conv(
                    features,
                    kernel,
                    stride,
                    1,
                    use_bias=False,
                    spectral=True,
                    dtype=module.dtype,
                    name=f"conv_{i}",
                )
                if i == 1:
                    weights = conv.weights(condition.channels, train=train)
                    x = convolve_condition(condition, weights, "zeros", module.dtype)
                else:
                    x = conv(x, train=train)
                x = instance_norm(x)
                if i < len(layers):
                    x = leaky_relu(x)
            return x

        x = remat.rematerialise(convolutions, s.rematerialise)(self, condition)
        for i, features in enumerate((8 * f, 8 * f, 4 * f), 1):
            block = SpadeBlock(
                features,
                2 * f,
                s.block_norm,
                spectral_everywhere=s.spectral_everywhere,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            x = remat.apply(block, x, condition, train=train, what=s.rematerialise)
        return x


class FeatureBlock(nn.Module):
    """The adaptive feature block that both branches share, with their projection if that is too."""

    settings: ModelSettings
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w k"], *, train: bool) -> Float[Array, "b h w k_out"]:
        s = self.settings
        for i in range(1, 5):
            block = ResidualBlock(
                s.feature_norm, s.spectral_everywhere, self.dtype, name=f"block_{i}"
            )
            x = remat.apply(block, x, train=train, what=s.rematerialise)
        if s.projection == "shared":
            x = projection(s, self.dtype, "projection")(x, train=train)
        return x


def projection(s: ModelSettings, dtype: Dtype | None, name: str) -> Conv:
    """The 1x1 convolution that makes what is compared, 4f numbers per position."""
    return Conv(4 * s.base_filters, 1, spectral=s.spectral_everywhere, dtype=dtype, name=name)


def mask_or_noise(
    mask: Float[Array, "b h w classes"],
    key: jax.Array,
    give_mask: Shaped[Array, ""] | bool,
    *,
    train: bool,
) -> Float[Array, "b h w classes"]:
    """The mask, or the noise that takes its place, of the mask's size; drawn only where used."""

    def noise() -> Float[Array, "b h w classes"]:
        # At inference a picture does not depend on the others of its batch.
        shape = mask.shape if train else (1, *mask.shape[1:])
        drawn = NOISE_DEVIATION * jax.random.normal(key, shape, mask.dtype)
        return jnp.broadcast_to(drawn, mask.shape)

    if isinstance(give_mask, bool):
        return mask if give_mask else noise()
    return jax.lax.cond(give_mask, lambda: mask, noise)


class Correspondence(NamedTuple):
    """Features of one input and its exemplar.

    Attributes:
      adapted_input, adapted_exemplar: (b, h, w, 4f), in the domain S before normalisation.
      theta, phi: (b, h, w, 4f), what is compared: input and exemplar.
      adapted_truth: (b, h, w, 4f), the truth x_B in S, before normalisation; None if not asked for.
    """

    adapted_input: Float[Array, "b h w k"]
    adapted_exemplar: Float[Array, "b h w k"]
    theta: Float[Array, "b h w k"]
    phi: Float[Array, "b h w k"]
    adapted_truth: Float[Array, "b h w k"] | None


class CorrespondenceNetwork(nn.Module):
    """Both domain adaptors, the shared feature block and the 1x1 projections."""

    settings: ModelSettings
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        semantics: Condition,
        exemplar: Float[Array, "b height width 3"],
        exemplar_mask: Condition,
        truth: Float[Array, "b height width 3"] | None = None,
        truth_mask: Condition | None = None,
        *,
        key: jax.Array,
        give_mask: Shaped[Array, ""] | bool,
        train: bool,
    ) -> Correspondence:
        """Runs both branches.

        Args:
          semantics: x_A.
          exemplar: y_B in [-1, 1].
          exemplar_mask: the exemplar's map in the input domain; not read with
            `mask_input='none'`.
          truth: x_B, to be adapted as well, for the alignment loss.
          truth_mask: what `exemplar_mask` is, for the truth; read with `mask_input='adaptor'`.
          key: of the noise that takes the masks' place.
          give_mask: whether the masks of exemplar and truth are read, or noise.
          train: whether norms use and update batch statistics and spectral vectors.
        """
        s = self.settings
        adapt_input = DomainAdaptor(s, self.dtype, name="input_adaptor")
        adapt_image = DomainAdaptor(s, self.dtype, name="image_adaptor")

        def image_branch(
            image: Float[Array, "b height width 3"], mask: Condition | None, stream: int
        ) -> Float[Array, "b h w k"]:
            if s.mask_input == "adaptor":
                assert mask is not None
                own_key = jax.random.fold_in(key, stream)
                read = mask_or_noise(mask.tensor(), own_key, give_mask, train=train)
                image = jnp.concatenate([image, read], -1)
            return adapt_image(Condition(image), train=train)

        adapted_input = adapt_input(semantics, train=train)
        # The order counts: each call advances the spectral vectors (SPEC section 7).
        adapted_exemplar = image_branch(exemplar, exemplar_mask, 0)
        adapted_truth = None if truth is None else image_branch(truth, truth_mask, 1)

        def normalised(
            x: Float[Array, "b h w k"], mask: Condition, give_mask: Shaped[Array, ""] | bool
        ) -> Float[Array, "b h w k_mask"]:
            x = unit_length(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
            if s.mask_input == "features":
                small = mask.resize(x.shape[1], x.shape[2], "nearest").tensor()
                own_key = jax.random.fold_in(key, 0)
                read = mask_or_noise(small, own_key, give_mask, train=train)
                x = jnp.concatenate([x, read.astype(x.dtype)], -1)
            return x

        features = FeatureBlock(s, self.dtype, name="features")
        branches = (
            normalised(adapted_input, semantics, True),
            normalised(adapted_exemplar, exemplar_mask, give_mask),
        )
        if s.feature_norm == "instance" and not s.spectral_everywhere:
            # Nothing in the block looks across samples or counts calls: one call serves both.
            branches = separate(features(interleave(*branches), train=train))
        else:
            branches = features(branches[0], train=train), features(branches[1], train=train)
        theta, phi = branches
        if s.projection == "separate":
            theta, phi = (
                projection(s, self.dtype, name)(x, train=train)
                for x, name in zip(branches, ("theta", "phi"), strict=True)
            )
        return Correspondence(adapted_input, adapted_exemplar, theta, phi, adapted_truth)
