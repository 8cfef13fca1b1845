"""Cross-domain correspondence network: from input and exemplar to features to be compared.

Paper section 3.1 and supplement Table 1; SPEC section 3.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped

from cocosnet_jax.encode import Inputs
from cocosnet_jax.nn import remat
from cocosnet_jax.nn.activation import leaky_relu
from cocosnet_jax.nn.blocks import ResidualBlock
from cocosnet_jax.nn.condition import Condition, convolve_condition
from cocosnet_jax.nn.conv import Conv, Dtype, activation_dtype
from cocosnet_jax.nn.interleave import interleave, separate
from cocosnet_jax.nn.norms import instance_norm, unit_length
from cocosnet_jax.nn.spade import SpadeBlock
from cocosnet_jax.settings import ModelSettings

NOISE_DEVIATION = 0.01  # of the noise that replaces masks


class DomainAdaptor(nn.Module):
    """Domain adaptor F_A or F_B: maps a domain to the shared domain S (equations 1 and 2).

    Attributes:
      settings: widths and variants.
      samples: devices that split the batch, or None.
    """

    settings: ModelSettings
    samples: Mesh | None = None

    @nn.compact
    def __call__(self, condition: Condition, *, train: bool) -> Float[Array, "b h w k"]:
        """Returns (b, H / warp_stride, W / warp_stride, 4f), before normalisation over channels."""
        s, dtype = self.settings, activation_dtype(self.settings.dtype)
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
                    dtype=dtype,
                    name=f"conv_{i}",
                )
                if i == 1:
                    weights = conv.weights(condition.channels, train=train)
                    x = convolve_condition(condition, weights, 1, dtype)
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
                dtype=dtype,
                kernels=s.modulation == "pallas",
                samples=self.samples,
                name=f"block_{i}",
            )
            x = remat.apply(block, x, condition, train=train, what=s.rematerialise)
        return x


class FeatureBlock(nn.Module):
    """The adaptive feature block, which both branches share.

    Attributes:
      projected: output channels of the shared 1x1 projection; None if each branch has its own.
      norm, spectral, dtype: see `ResidualBlock`.
      rematerialise: see `remat.rematerialise`.
      kernels, samples: see `ResidualBlock`.
    """

    projected: int | None
    norm: Literal["instance", "batch"]
    spectral: bool
    rematerialise: remat.Rematerialise
    dtype: Dtype | None
    kernels: bool
    samples: Mesh | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w k"], *, train: bool) -> Float[Array, "b h w k_out"]:
        for i in range(1, 5):
            block = ResidualBlock(
                self.norm,
                self.spectral,
                self.dtype,
                self.kernels,
                self.samples,
                name=f"block_{i}",
            )
            x = remat.apply(block, x, train=train, what=self.rematerialise)
        if self.projected:
            project = Conv(
                self.projected, 1, spectral=self.spectral, dtype=self.dtype, name="projection"
            )
            x = project(x, train=train)
        return x


def mask_or_noise(
    mask: Float[Array, "b h w classes"],
    keys: jax.Array,
    give_mask: Shaped[Array, ""] | bool,
) -> Float[Array, "b h w classes"]:
    """Returns the mask, or noise of its shape, which is generated only if it is used.

    Args:
      mask: of the samples.
      keys: of the noise: one for each sample, or a single one for all.
      give_mask: whether to return the mask.
    """

    def noise() -> Float[Array, "b h w classes"]:
        samples = jax.vmap(lambda one: jax.random.normal(one, mask.shape[1:], mask.dtype))(keys)
        return jnp.broadcast_to(NOISE_DEVIATION * samples, mask.shape)

    if isinstance(give_mask, bool):
        return mask if give_mask else noise()
    return jax.lax.cond(give_mask, lambda: mask, noise)


class Correspondence(NamedTuple):
    """Features of the inputs and their exemplars; in a blend, there are r exemplars per input.

    Attributes:
      adapted_input, adapted_exemplar: (b, h, w, 4f), in the domain S before normalisation.
      theta, phi: (b, h, w, 4f), features to be compared, of input and exemplar.
      adapted_truth: (b, h, w, 4f), the truth x_B in S before normalisation; None without
        `with_truth`.
    """

    adapted_input: Float[Array, "b h w k"]
    adapted_exemplar: Float[Array, "b_r h w k"]
    theta: Float[Array, "b h w k"]
    phi: Float[Array, "b_r h w k"]
    adapted_truth: Float[Array, "b h w k"] | None


class CorrespondenceNetwork(nn.Module):
    """The domain adaptors, the shared feature block and the 1x1 projections.

    Attributes:
      settings: widths and variants.
      samples: devices that split the batch, or None.
    """

    settings: ModelSettings
    samples: Mesh | None = None

    @nn.compact
    def __call__(
        self,
        inputs: Inputs,
        key: jax.Array,
        give_mask: Shaped[Array, ""] | bool,
        *,
        train: bool,
        with_truth: bool = False,
    ) -> Correspondence:
        """Runs both branches.

        Args:
          inputs: the batch.
          key: of the noise that replaces masks: one, or one for each sample. A result depends on
            neither the rest of its batch nor its place in it.
          give_mask: whether the network gets the masks of exemplar and truth, or noise.
          train: whether norms use and update batch statistics and spectral vectors.
          with_truth: whether to adapt the truth x_B as well, for the alignment loss.
        """
        s, dtype = self.settings, activation_dtype(self.settings.dtype)
        adapt_input = DomainAdaptor(s, self.samples, name="input_adaptor")
        adapt_image = DomainAdaptor(s, self.samples, name="image_adaptor")

        def stream_keys(stream: int) -> jax.Array:
            return jax.vmap(jax.random.fold_in, (0, None))(key.reshape(-1), stream)

        def image_branch(
            image: Float[Array, "b height width 3"], mask: Condition, stream: int
        ) -> Float[Array, "b h w k"]:
            if s.mask_input == "adaptor":
                given = mask_or_noise(mask.tensor(), stream_keys(stream), give_mask)
                image = jnp.concatenate([image, given], -1)
            return adapt_image(Condition(image), train=train)

        adapted_input = adapt_input(inputs.semantics, train=train)
        # The exemplar comes first: each call advances the spectral vectors (SPEC section 7).
        adapted_exemplar = image_branch(inputs.exemplar, inputs.exemplar_semantics, 0)
        adapted_truth = image_branch(inputs.image, inputs.semantics, 1) if with_truth else None

        def normalised(
            x: Float[Array, "b h w k"], mask: Condition, give_mask: Shaped[Array, ""] | bool
        ) -> Float[Array, "b h w k_mask"]:
            x = unit_length(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
            if s.mask_input == "features":
                small = mask.resize(x.shape[1], x.shape[2], "nearest").tensor()
                given = mask_or_noise(small, stream_keys(0), give_mask)
                x = jnp.concatenate([x, given.astype(x.dtype)], -1)
            return x if dtype is None else x.astype(dtype)

        projected = 4 * s.base_filters
        features = FeatureBlock(
            projected if s.projection == "shared" else None,
            s.feature_norm,
            s.spectral_everywhere,
            s.rematerialise,
            dtype,
            s.modulation == "pallas",
            self.samples,
            name="features",
        )
        branches = (
            normalised(adapted_input, inputs.semantics, True),
            normalised(adapted_exemplar, inputs.exemplar_semantics, give_mask),
        )
        alike = branches[0].shape == branches[1].shape  # Unless inputs have several exemplars.
        if s.feature_norm == "instance" and not s.spectral_everywhere and alike:
            # The block treats samples independently and keeps no state: one call serves both.
            branches = separate(features(interleave(*branches), train=train))
        else:
            branches = features(branches[0], train=train), features(branches[1], train=train)
        theta, phi = branches
        if s.projection == "separate":
            theta, phi = (
                Conv(projected, 1, spectral=s.spectral_everywhere, dtype=dtype, name=name)(
                    x, train=train
                )
                for x, name in zip(branches, ("theta", "phi"), strict=True)
            )
        return Correspondence(adapted_input, adapted_exemplar, theta, phi, adapted_truth)
